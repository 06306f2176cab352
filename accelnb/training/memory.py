"""Device memory: give it back, and find the largest batch that fits."""

from __future__ import annotations

import functools
import gc
import inspect
from collections.abc import Callable
from typing import Any

import torch

from accelnb.devices import DEVICES
from accelnb.errors import AccelnbError
from accelnb.training.parallel.repair import repair_half_done

# What torch says where its error has no type of its own.
_OUT_OF_MEMORY = (
    "out of memory",  # CUDA, HIP, XPU, MPS
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",  # Windows
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_SUPPORTED",  # also where cuDNN finds no memory to work in
    "RESOURCE_EXHAUSTED",  # XLA
)


def clear_device_cache(garbage_collection: bool = False) -> None:
    """Give memory that torch keeps for later back to the device.

    Parameters
    ----------
    garbage_collection
        Collect Python's garbage first, which may hold tensors. That is slow.

    Examples
    --------
    >>> from accelnb.utils import clear_device_cache
    >>> clear_device_cache(garbage_collection=True)
    """
    if garbage_collection:
        gc.collect()
    for device in DEVICES.values():
        device.empty_cache()


def release_memory(*objects: Any) -> list[None]:
    """Collect garbage, and give unused device memory back.

    Returns
    -------
    list of None
        One for each object: assign them to the names that hold the objects, or these stay.

    Examples
    --------
    >>> import torch
    >>> from accelnb.utils import release_memory
    >>> a, b = torch.ones(1000), torch.ones(1000)
    >>> a, b = release_memory(a, b)
    >>> print(a)
    None
    """
    count = len(objects)
    del objects
    clear_device_cache(garbage_collection=True)
    return [None] * count


def should_reduce_batch_size(exception: BaseException) -> bool:
    """Return whether an error says that memory ran out, of a device or of the machine.

    Examples
    --------
    >>> from accelnb.utils import should_reduce_batch_size
    >>> should_reduce_batch_size(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    True
    """
    if isinstance(exception, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(exception, RuntimeError) and says_out_of_memory(str(exception))


def says_out_of_memory(text: str) -> bool:
    """Return whether the text of an error of torch's says that memory ran out."""
    return any(sign in text for sign in _OUT_OF_MEMORY)


def find_executable_batch_size(
    function: Callable[..., Any] | None = None,
    starting_batch_size: int = 128,
    reduce_batch_size_fn: Callable[[], int] | None = None,
) -> Callable[..., Any]:
    """Call a function with smaller and smaller batches, until one fits into memory.

    For use as a decorator, with or without arguments. The function is called with the batch size
    before its other arguments, and again from its beginning whenever memory ran out. The size
    that fitted is where the next call begins.

    Each process searches for itself, and ranks in the middle of a collective wait for one that
    begins anew. Where the ranks may run out of memory at different sizes, search with the bare
    model, before `prepare`, and let all take the smallest size that was found.

    Parameters
    ----------
    reduce_batch_size_fn
        Called without arguments, returns the next size. By default 0.9 times the last.

    Raises
    ------
    AccelnbError
        The function cannot take a batch size and these arguments; no size fits; or
        `reduce_batch_size_fn` returned a size that is not smaller.

    Examples
    --------
    >>> from accelnb.utils import find_executable_batch_size
    >>> @find_executable_batch_size(starting_batch_size=100)
    ... def train(batch_size, epochs):
    ...     if batch_size > 85:
    ...         raise RuntimeError("CUDA out of memory.")
    ...     return batch_size, epochs
    >>> train(epochs=3)
    (81, 3)
    """
    if function is None:
        return functools.partial(
            find_executable_batch_size,
            starting_batch_size=starting_batch_size,
            reduce_batch_size_fn=reduce_batch_size_fn,
        )
    signature = inspect.signature(function)
    name = getattr(function, "__name__", repr(function))
    batch_size = starting_batch_size

    @functools.wraps(function)
    def with_a_batch_that_fits(*args: Any, **kwargs: Any) -> Any:
        nonlocal batch_size
        try:
            signature.bind(batch_size, *args, **kwargs)
        except TypeError as error:
            raise AccelnbError(
                f"{name}{signature}: {error}; it is called with the batch size as its first "
                "argument: have it take one, and do not pass one"
            ) from None
        clear_device_cache(garbage_collection=True)
        while batch_size > 0:
            try:
                return function(batch_size, *args, **kwargs)
            except Exception as error:
                if not should_reduce_batch_size(error):
                    raise
            # Here the error is gone, and with it what its frames held in memory.
            repair_half_done()
            clear_device_cache(garbage_collection=True)
            smaller = reduce_batch_size_fn() if reduce_batch_size_fn else int(batch_size * 0.9)
            if smaller >= batch_size:
                raise AccelnbError(
                    f"{name}: out of memory with batch_size={batch_size}, and "
                    f"reduce_batch_size_fn returned {smaller}: have it return a smaller one"
                )
            batch_size = smaller
        raise AccelnbError(f"{name}: out of memory with every batch size down to 1")

    return with_a_batch_that_fits
