"""The TCP connections that torch opened for one purpose, so that they can be cut."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator

from accelnb.engine.process.procfs import open_files

Wanted = Callable[[int, int], bool]


class Connections:
    """Connections of this process. Off Linux none is known, and an interrupt waits for the peers.

    Listening sockets are never among them, for gloo ends the process when one of those fails.
    """

    def __init__(self) -> None:
        self._noted: dict[int, str] = {}  # descriptor -> what /proc calls it
        self._noting: tuple[dict[int, str], Wanted] | None = None

    @contextlib.contextmanager
    def noting(self, wanted: Wanted) -> Iterator[None]:
        """Note what the block opens and `wanted` takes; it is given the local and peer's port."""
        __tracebackhide__ = True
        self._noting = _open_sockets(), wanted
        try:
            yield
        finally:
            self._note_new()
            self._noting = None

    def cut(self) -> None:
        """Shut all of them down; for any thread."""
        self._note_new()
        for fd, name in list(self._noted.items()):
            # It may be closed meanwhile, and the descriptor another's.
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as copy:
                if os.readlink(f"/proc/self/fd/{copy.fileno()}") == name:
                    copy.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        self._noted.clear()

    def _note_new(self) -> None:
        if (noting := self._noting) is None:
            return
        before, wanted = noting
        for fd, name in _open_sockets().items():
            if before.get(fd) != name and (ports := _ports(fd)) and wanted(*ports):
                self._noted[fd] = name


def _ports(fd: int) -> tuple[int, int] | None:
    """Return the local and the peer's port of a TCP connection, None for any other socket."""
    try:
        with socket.socket(fileno=os.dup(fd)) as copy:
            if copy.family not in (socket.AF_INET, socket.AF_INET6):
                return None
            return copy.getsockname()[1], copy.getpeername()[1]  # raises if it listens
    except OSError:
        return None


def _open_sockets() -> dict[int, str]:
    return {fd: name for fd, name in open_files().items() if name.startswith("socket:")}
