"""A private folder for Unix sockets, whose paths are short wherever the temporary folder is."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from accelnb.errors import AccelnbError

_LONGEST = 103  # bytes of a socket's path: macOS has 104 for it (unix(4)), Linux 108 (unix(7))
_ROOM = 40  # of them for the new folder's name and the socket's own


def new_socket_folder() -> Path:
    """Make a folder that only this user can enter, and where a socket's path is not too long.

    It is in the temporary folder where that is short enough, which on Slurm and in CI it often is
    not. ``XDG_RUNTIME_DIR`` comes last: it is removed at logout, and a notebook may run on.

    Raises
    ------
    AccelnbError
        There is no place for it.

    Examples
    --------
    >>> import shutil
    >>> from accelnb.engine.wire.socket_folder import new_socket_folder
    >>> folder = new_socket_folder()  # the caller removes it
    >>> len(str(folder)) < 100
    True
    >>> shutil.rmtree(folder)
    """
    with contextlib.suppress(OSError):  # there is no temporary folder
        tempfile.gettempdir()
    places = (tempfile.tempdir, "/tmp", "/dev/shm", os.environ.get("XDG_RUNTIME_DIR"))
    for place in places:
        if place and _is_short(place) and _is_safe(place):
            with contextlib.suppress(OSError):  # it is full, or not for us
                return Path(tempfile.mkdtemp(prefix="accelnb-", dir=place))  # mode 0700
    raise AccelnbError(
        "there is no folder for sockets: /tmp and /dev/shm cannot be written, and the path of "
        f"TMPDIR is longer than {_LONGEST - _ROOM} characters or others may rename what is in it; "
        "set TMPDIR to a short folder of your own before the kernel starts"
    )


def _is_short(place: str) -> bool:
    return place.startswith("/") and place.isascii() and len(place) <= _LONGEST - _ROOM


def _is_safe(place: str) -> bool:
    """Return whether nobody else can put a folder of theirs in the place of ours."""
    try:
        found = os.stat(place)
    except OSError:
        return False
    if found.st_mode & stat.S_ISVTX:
        return True
    others_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return not others_write and found.st_uid in (0, os.geteuid())
