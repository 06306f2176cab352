"""Messages and file descriptors over a Unix socket, between a notebook and its fork server.

A message is JSON behind a length of four bytes; descriptors travel with its first byte
(SCM_RIGHTS, unix(7)). Either end closing is the signal that its process is done.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import socket
import struct
from collections.abc import Sequence
from typing import Any

_LENGTH = struct.Struct("!I")
_MOST_FDS = 8


class Channel:
    """One end of a connection to another process on this machine.

    Examples
    --------
    >>> from accelnb.engine.wire.channel import Channel
    >>> here, there = Channel.pair()
    >>> here.send({"op": "ping"})
    >>> there.receive()
    ({'op': 'ping'}, [])
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(one), cls(other)

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        return self._socket.fileno()

    def settimeout(self, seconds: float | None) -> None:
        self._socket.settimeout(seconds)

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send `message`, and copies of `fds`; raise OSError when the other end is gone."""
        body = json.dumps(message).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._socket.sendmsg([_LENGTH.pack(len(body))], rights)
        self._socket.sendall(body)

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        """Return the next message and its descriptors; raise EOFError when the end is gone."""
        space = socket.CMSG_LEN(_MOST_FDS * array.array("i").itemsize)
        head, ancillary, _, _ = self._socket.recvmsg(_LENGTH.size, space)
        fds = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        for fd in fds:
            os.set_inheritable(fd, False)
        head += self._exactly(_LENGTH.size - len(head)) if head else b""
        if not head:
            raise EOFError
        body = self._exactly(_LENGTH.unpack(head)[0])
        return json.loads(body), list(fds)

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            chunk = self._socket.recv(count - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return bytes(data)

    def hung_up(self) -> bool:
        """Return whether the other end is closed."""
        poll = select.poll()
        poll.register(self._socket, 0)  # POLLHUP is always reported
        return bool(poll.poll(0))

    def shutdown(self) -> None:
        """Let the other end read end-of-file, and stay open here."""
        with contextlib.suppress(OSError):  # the other end is gone
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()
