"""Large buffers from one process to others: written once, mapped by each reader.

The memory is a memfd (memfd_create(2)), so that a small or full /dev/shm does not matter, or a
file in the temporary folder where there is none. A reader opens it by its path while the
writer still holds it, and maps it privately: pages are shared until the reader changes them.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
import tempfile
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

_ALIGN = 64  # bytes; what torch's allocator gives
_PART = 16 << 20  # least bytes that are worth a thread, and a file, of their own
_MOST_FILES = 8
_THREADS = 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
)  # fmt: skip
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MAP_FIXED = 0x10
_NOTHING = 0  # PROT_NONE


class SharedBuffers:
    """Copies of `buffers` that other processes of this user can map until `close`.

    They are written, not copied into a mapping, whose page faults take twice as long. Much lies
    in several files, for threads that write to one file wait for one another.

    Raises
    ------
    MemoryError
        There is no room for them.
    """

    def __init__(self, buffers: Sequence[memoryview]) -> None:
        self.extents: list[tuple[int, int]] = []  # offset and length of each buffer
        size = 0
        for buffer in buffers:
            self.extents.append((size, buffer.nbytes))
            size += -(-buffer.nbytes // _ALIGN) * _ALIGN
        self._size = size
        self._part = max(_PART, -(-size // (_MOST_FILES * mmap.PAGESIZE)) * mmap.PAGESIZE)
        self._files: list[tuple[int, str | None]] = []
        self._owner = os.getpid()
        try:
            for at in range(0, size, self._part):
                self._add_file(min(self._part, size - at))
            if size <= self._part:
                self._fill(0, buffers)
            else:
                with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
                    list(pool.map(self._fill, range(len(self._files)), repeat(buffers)))
        except OSError as error:
            self.close()
            raise MemoryError(f"no room to share {size:,} bytes: {error}") from error

    def describe(self, numbers: Sequence[int]) -> dict[str, Any]:
        """Return what `map_shared` needs to give the buffers with these numbers, as JSON."""
        extents = [self.extents[number] for number in numbers]
        paths = [path or f"/proc/{self._owner}/fd/{fd}" for fd, path in self._files]
        return {"paths": paths, "part": self._part, "size": self._size, "extents": extents}

    def close(self) -> None:
        """Give the memory up; mappings of it stay until their own end."""
        for fd, path in self._files:
            os.close(fd)
            if path is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        self._files = []

    def __del__(self) -> None:
        if self._owner == os.getpid():
            self.close()

    def _add_file(self, size: int) -> None:
        fd, path = _open_new()
        self._files.append((fd, path))
        os.ftruncate(fd, size)

    def _fill(self, number: int, buffers: Sequence[memoryview]) -> None:
        """Write the parts of `buffers` that lie in one of the files."""
        fd, _ = self._files[number]
        first, last = number * self._part, (number + 1) * self._part
        for (offset, length), buffer in zip(self.extents, buffers, strict=True):
            at, end = max(offset, first), min(offset + length, last)
            while at < end:
                at += os.pwrite(fd, buffer[at - offset : end - offset], at - first)


def map_shared(description: dict[str, Any]) -> list[memoryview]:
    """Map what another process described; each view is writable and private to this process.

    The mapping holds no file descriptor and ends with the last view of it.
    """
    size, part = description["size"], description["part"]
    fds: list[int] = []
    try:
        for path in description["paths"]:
            fds.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        address = _map(fds, size, part)
    finally:
        for fd in fds:
            os.close(fd)
    whole = (ctypes.c_char * size).from_address(address)
    # Python's mmap would keep a descriptor for each; torch and numpy keep `whole` alive.
    weakref.finalize(whole, _libc.munmap, address, size).atexit = False
    view = memoryview(whole).cast("B")
    return [view[offset : offset + length] for offset, length in description["extents"]]


def _map(fds: Sequence[int], size: int, part: int) -> int:
    """Map files of `part` bytes each one behind the other; return the address."""
    address = _mmap(None, size, _NOTHING, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
    try:
        for at, fd in zip(range(0, size, part), fds, strict=True):
            protection = mmap.PROT_READ | mmap.PROT_WRITE
            flags = mmap.MAP_PRIVATE | _MAP_FIXED
            _mmap(address + at, min(part, size - at), protection, flags, fd)
    except OSError:
        _libc.munmap(address, size)
        raise
    return address


def _mmap(at: int | None, size: int, protection: int, flags: int, fd: int) -> int:
    address = _libc.mmap(at, size, protection, flags, fd, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "cannot map shared memory")
    return address


def _open_new() -> tuple[int, str | None]:
    if hasattr(os, "memfd_create") and sys.platform.startswith("linux"):
        with contextlib.suppress(OSError):  # forbidden in some sandboxes
            return os.memfd_create("accelnb", os.MFD_CLOEXEC), None
    return tempfile.mkstemp(prefix="accelnb-")
