"""Pages of memory that a file is mapped into: have them read before they are used."""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys
from typing import Any

import torch

# Of Linux, as `madvise` takes them. The second is known since 5.14; an older one refuses it.
_WILL_NEED, _POPULATE_READ = 3, 22


@functools.cache
def _madvise() -> Any:
    if sys.platform != "linux":
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


def read_in(tensor: torch.Tensor) -> None:
    """Wait until the pages of a tensor on the CPU are in memory; other threads go on meanwhile.

    They are asked for at once, so that the disk reads them in large pieces; a product of matrices
    would wait for a few at a time.
    """
    madvise = _madvise()
    if madvise is None or not tensor.nbytes:
        return
    address = tensor.data_ptr()
    start = address - address % mmap.PAGESIZE
    length = address + tensor.nbytes - start
    for advice in (_WILL_NEED, _POPULATE_READ):
        madvise(start, length, advice)
