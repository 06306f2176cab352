"""Where sockets are, whatever the temporary folder is."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from accelnb.engine.wire.socket_folder import new_socket_folder
from accelnb.errors import AccelnbError

PLACES = {
    "short": ("a", 0o700, True),
    "long": ("a" * 90, 0o700, False),
    "other letters": ("ä", 0o700, False),
    "others may rename in it": ("b", 0o777, False),
    "sticky": ("c", 0o1777, True),
    "missing": ("", 0o700, False),
}


@pytest.fixture
def root(monkeypatch):
    root = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    yield root
    shutil.rmtree(root)


@pytest.mark.parametrize("kind", PLACES)
def test_sockets_are_in_the_temporary_folder_only_if_that_is_short_and_safe(
    root, monkeypatch, kind
):
    name, mode, is_used = PLACES[kind]
    place = root / (name or "missing")
    if name:
        place.mkdir()
        place.chmod(mode)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    folder = new_socket_folder()
    try:
        assert (folder.parent == place) == is_used
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.stat().st_uid == os.geteuid()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "group-1000.sock"))
    finally:
        shutil.rmtree(folder)


def test_without_a_place_it_is_one_line(root, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/" + "long" * 30)
    monkeypatch.setattr(tempfile, "mkdtemp", _refuse)
    with pytest.raises(AccelnbError, match="there is no folder for sockets"):
        new_socket_folder()


def _refuse(*_, **__):
    raise PermissionError
