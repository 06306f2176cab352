"""A rank's output: taken at the file descriptors, so that C++ and subprocesses are heard too."""

from __future__ import annotations

import codecs
import ctypes
import fcntl
import io
import os
import select
import struct
import sys
import termios
import threading

from accelnb.engine.process.output_pipes import Output, Record

_CHUNK = 1 << 18
_SAFE_WRITE = 4096  # what POLLOUT on a pipe promises to take without waiting (pipe(7))
_libc = ctypes.CDLL(None)
_keeping_lock = ctypes.PyDLL(None)
_kept: dict[int, int] = {}  # copies of the descriptors 1 and 2


class PipeWriter(io.TextIOBase):
    """``sys.stdout`` of a rank: whole lines go to the pipe at once, the rest soon after.

    A line is written by one system call, so that lines of threads do not mix.
    """

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.name = name
        self.buffer = open(fd, "wb", buffering=0, closefd=False)  # noqa: SIM115
        # By thread: print writes a line in pieces, and those of threads must not mix.
        self._pending: dict[int, list[str]] = {}
        self._pending_lock = threading.RLock()  # a signal handler may print within a print

    encoding = "utf-8"
    errors = "surrogateescape"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        thread = threading.get_ident()
        with self._pending_lock:
            self._pending.setdefault(thread, []).append(text)
            if "\n" in text or "\r" in text:
                self._send(thread)
        return len(text)

    def flush(self) -> None:
        with self._pending_lock:
            for thread in list(self._pending):
                self._send(thread)

    def flush_if_idle(self) -> None:
        """Flush partial lines from another thread; never wait for the pipe or a writer."""
        if not self._pending or not self._pending_lock.acquire(blocking=False):
            return
        try:
            waiting = sum(len(text) for texts in self._pending.values() for text in texts)
            if waiting * 4 <= _SAFE_WRITE and select.select([], [self._fd], [], 0)[1]:
                self.flush()
        finally:
            self._pending_lock.release()

    def _send(self, thread: int) -> None:
        data = memoryview("".join(self._pending.pop(thread, ())).encode("utf-8", "surrogatepass"))
        while data:
            data = data[os.write(self._fd, data) :]


class PipeReader:
    """The reading end of one output pipe, as text."""

    def __init__(self, output: Output) -> None:
        self.name = output.name
        self.fd = output.pipe
        self._record = Record(output.record)
        self._buffer = ctypes.create_string_buffer(_CHUNK)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._reading = threading.RLock()  # held for moments: a signal handler may ask too

    @property
    def total(self) -> int:
        """How many bytes were read so far."""
        return self._record.total

    @property
    def written(self) -> int:
        """How many bytes were written so far (FIONREAD, ioctl_tty(2))."""
        with self._reading:
            waiting = fcntl.ioctl(self.fd, termios.FIONREAD, b"\0\0\0\0")
            return self.total + struct.unpack("i", waiting)[0]

    def read(self, upto: int | None = None) -> tuple[str, int]:
        """Return text that was written meanwhile, and how many bytes it took; never wait.

        With `upto`, stop behind that byte of all that was ever written.
        """
        with self._reading:
            most = _CHUNK if upto is None else max(0, min(_CHUNK, upto - self.total))
            # Keeps Python's lock, unlike os.read: the cell cannot end the process between the
            # read and its record.
            count = _keeping_lock.read(self.fd, self._buffer, most)
            if count < 0:
                return "", 0
            data = ctypes.string_at(self._buffer, count)
            self._record.add(data)
            return self._decoder.decode(data), count


def restore_descriptors() -> None:
    """Open descriptors 1 and 2 again if a cell closed or redirected them."""
    for number, kept in _kept.items():
        os.dup2(kept, number)


def install_writers() -> tuple[PipeWriter, PipeWriter]:
    """Point ``sys.stdout`` and ``sys.stderr`` at descriptors 1 and 2."""
    _kept.update((number, os.dup(number)) for number in (1, 2))
    sys.stdout = sys.__stdout__ = out = PipeWriter(1, "<stdout>")  # type: ignore[assignment]
    sys.stderr = sys.__stderr__ = err = PipeWriter(2, "<stderr>")  # type: ignore[assignment]
    return out, err


def flush_all() -> None:
    """Flush Python's streams and what C code holds in its own buffers.

    Where a cell has left a stream that is closed, or none, the rank's own comes back.
    """
    for name in ("stdout", "stderr"):
        own = getattr(sys, f"__{name}__")
        try:
            getattr(sys, name).flush()
        except (AttributeError, OSError, ValueError):
            setattr(sys, name, own)
        own.flush()
    _libc.fflush(None)
