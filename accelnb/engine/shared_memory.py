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
from typing import Any

_ALIGN = 64  # bytes; what torch's allocator gives
_PART = 16 << 20  # copied by one thread
_THREADS = 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
)  # fmt: skip
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


class SharedBuffers:
    """Copies of `buffers` that other processes of this user can map until `close`.

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
        self._fd, self._path = _open_new()
        self._owner = os.getpid()
        try:
            os.ftruncate(self._fd, size)
            if self._path is not None:
                # Reserved now: a write to a mapping that the disk has no room for is a SIGBUS.
                os.posix_fallocate(self._fd, 0, size)
            with mmap.mmap(self._fd, size) as target:
                for (offset, _), buffer in zip(self.extents, buffers, strict=True):
                    _copy(target, offset, buffer)
        except OSError as error:
            self.close()
            raise MemoryError(f"no room to share {size:,} bytes: {error}") from error

    def describe(self) -> dict[str, Any]:
        """Return what `map_shared` needs, as JSON."""
        return {"path": self._path or f"/proc/{self._owner}/fd/{self._fd}", "extents": self.extents}

    def close(self) -> None:
        """Give the memory up; mappings of it stay until their own end."""
        if self._fd >= 0:
            os.close(self._fd)
            if self._path is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path)
        self._fd = -1

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0 and self._owner == os.getpid():
            self.close()


def map_shared(description: dict[str, Any]) -> list[memoryview]:
    """Map what another process described; each view is writable and private to this process.

    The mapping holds no file descriptor and ends with the last view of it.
    """
    extents = description["extents"]
    size = max(offset + length for offset, length in extents)
    fd = os.open(description["path"], os.O_RDWR | os.O_CLOEXEC)
    try:
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        address = _libc.mmap(None, size, protection, mmap.MAP_PRIVATE, fd, 0)
    finally:
        os.close(fd)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "cannot map shared memory")
    whole = (ctypes.c_char * size).from_address(address)
    # Python's mmap would keep a descriptor for each; torch and numpy keep `whole` alive.
    weakref.finalize(whole, _libc.munmap, address, size).atexit = False
    view = memoryview(whole).cast("B")
    return [view[offset : offset + length] for offset, length in extents]


def _open_new() -> tuple[int, str | None]:
    if hasattr(os, "memfd_create") and sys.platform.startswith("linux"):
        with contextlib.suppress(OSError):  # forbidden in some sandboxes
            return os.memfd_create("accelnb", os.MFD_CLOEXEC), None
    return tempfile.mkstemp(prefix="accelnb-")


def _copy(target: mmap.mmap, offset: int, source: memoryview) -> None:
    """Copy with several threads: most of the time goes into the kernel's fresh pages."""
    if source.readonly or source.nbytes <= _PART:
        target[offset : offset + source.nbytes] = source
        return
    to = ctypes.addressof(ctypes.c_char.from_buffer(target)) + offset
    start = ctypes.addressof(ctypes.c_char.from_buffer(source))
    parts = [(at, min(_PART, source.nbytes - at)) for at in range(0, source.nbytes, _PART)]
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        list(pool.map(lambda part: ctypes.memmove(to + part[0], start + part[0], part[1]), parts))
