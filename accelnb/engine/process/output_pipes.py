"""A rank's stdout and stderr: pipes that the rank reads itself, and a record of what it read.

What a rank has read of its pipes is on its way to the notebook when it is killed. The record, in
memory shared with the fork server, lets the notebook have it all the same.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import mmap
import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

_NAMES = ("stdout", "stderr")
_PIPE_BYTES = 1 << 20
_RECORD_BYTES = 1 << 20  # several messages of output: a busy notebook has not received the last
_TOTAL = struct.Struct("q")


class Output(NamedTuple):
    """The reading end of a pipe that does not block, and the memory of its `Record`."""

    name: str
    pipe: int
    record: int

    def close(self) -> None:
        os.close(self.pipe)
        os.close(self.record)


class Record:
    """The last MiB that was read of a pipe, and how many bytes were read in all."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, _TOTAL.size + _RECORD_BYTES)
        self.total = 0

    def add(self, data: bytes) -> None:
        kept = data[-_RECORD_BYTES:]
        at = (self.total + len(data) - len(kept)) % _RECORD_BYTES
        first = kept[: _RECORD_BYTES - at]
        self._memory[_TOTAL.size + at : _TOTAL.size + at + len(first)] = first
        self._memory[_TOTAL.size : _TOTAL.size + len(kept) - len(first)] = kept[len(first) :]
        self.total += len(data)
        _TOTAL.pack_into(self._memory, 0, self.total)

    def read(self) -> tuple[int, bytes]:
        """Return how many bytes were read in all, and the last of them."""
        (total,) = _TOTAL.unpack_from(self._memory)
        ring = self._memory[_TOTAL.size :]
        at = total % _RECORD_BYTES
        return total, ring[:at] if total < _RECORD_BYTES else ring[at:] + ring[:at]


@dataclass(frozen=True)
class Rest:
    """What is left of an output when its rank has ended."""

    total: int
    last: bytes  # the end of what was read
    unread: bytes

    @classmethod
    def of(cls, output: Output) -> Rest:
        return cls(*Record(output.record).read(), _drain(output.pipe))

    @classmethod
    def from_json(cls, content: Mapping[str, str | int]) -> Rest:
        last, unread = (base64.b64decode(str(content[part])) for part in ("last", "unread"))
        return cls(int(content["total"]), last, unread)

    def to_json(self) -> dict[str, str | int]:
        encoded = {"last": self.last, "unread": self.unread}
        texts = {name: base64.b64encode(data).decode() for name, data in encoded.items()}
        return {"total": self.total, **texts}

    def after(self, received: int) -> str:
        """Return the text behind the first `received` bytes."""
        lost = min(self.total - received, len(self.last))
        return (self.last[len(self.last) - lost :] + self.unread).decode(errors="replace")


def open_outputs() -> tuple[tuple[Output, ...], tuple[int, ...]]:
    """Return a rank's outputs, and the descriptors to write to them."""
    outputs, writes = [], []
    with contextlib.ExitStack() as on_failure:  # this process may be out of descriptors
        for name in _NAMES:
            ends = _pipe()
            for fd in ends:
                on_failure.callback(os.close, fd)
            record = _memory()
            on_failure.callback(os.close, record)
            outputs.append(Output(name, ends[0], record))
            writes.append(ends[1])
        on_failure.pop_all()
    return tuple(outputs), tuple(writes)


def _pipe() -> tuple[int, int]:
    reads, writes = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):  # the user's pipe budget is used up: 64 KiB do
            fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    os.set_blocking(reads, False)
    return reads, writes


def _memory() -> int:
    try:
        fd = os.memfd_create("accelnb-output", os.MFD_CLOEXEC)
    except (AttributeError, OSError) as error:  # not Linux, or forbidden
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            raise  # a file would need a descriptor as well
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.truncate(fd, _TOTAL.size + _RECORD_BYTES)
    return fd


def _drain(pipe: int) -> bytes:
    data = b""
    with contextlib.suppress(BlockingIOError):
        while len(data) < _PIPE_BYTES and (chunk := os.read(pipe, _PIPE_BYTES)):
            data += chunk
    return data
