"""Which part of a whole tensor this process holds, and tensors sent to all, part by part."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from accelnb.training.dtensors import is_dtensor, of_part

# Of a tensor that is on its way, the part that is in memory at a time.
BYTES_AT_ONCE = 4 * 2**20


def class_name(module: nn.Module) -> str:
    """Return the name of a module's class, without the prefix that torch gives to divided ones."""
    name = type(module).__name__
    return name.removeprefix("FSDP") if hasattr(module, "_get_fsdp_state") else name


def slots(model: nn.Module) -> Iterator[tuple[nn.Module, str, torch.Tensor]]:
    """Yield each place of a module that holds a parameter or buffer: the module, its key, it.

    In one order on all processes. A tied tensor is there once for each place.
    """
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            yield from ((module, key, it) for key, it in held.items() if it is not None)


def put(module: nn.Module, key: str, tensor: torch.Tensor) -> None:
    """Have a place of a module hold another tensor."""
    held: dict[str, Any] = module._parameters if key in module._parameters else module._buffers
    held[key] = tensor


def held(module: nn.Module, key: str) -> torch.Tensor:
    """Return the tensor in a place of a module."""
    tensor = module._parameters[key] if key in module._parameters else module._buffers[key]
    assert tensor is not None
    return tensor


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this process holds of a tensor: the same memory, without gradients."""
    with torch.no_grad():
        return tensor.to_local() if is_dtensor(tensor) else tensor.detach()


def own_slices(tensor: torch.Tensor) -> tuple[slice, ...]:
    """Return where in the whole tensor this process's part of it is."""
    if not is_dtensor(tensor):
        return tuple(slice(0, size) for size in tensor.shape)
    part: Any = tensor
    chunk = part.__create_chunk_list__()[0]  # what torch's checkpoints ask
    return tuple(
        slice(start, start + size) for start, size in zip(chunk.offsets, chunk.sizes, strict=True)
    )


def like(tensor: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Return this process's part of another tensor, divided as a DTensor is."""
    its: Any = tensor
    return of_part(part, its._spec)


def rows_at_once(shape: tuple[int, ...], itemsize: int) -> Iterator[slice]:
    """Yield the rows of a tensor in blocks of bounded size, in order."""
    row = itemsize * math.prod(shape[1:])
    step = max(1, BYTES_AT_ONCE // max(1, row))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def overlap(rows: slice, own: slice) -> tuple[slice, slice] | None:
    """Return where rows that a process owns are in a block of rows, and where in its part.

    Examples
    --------
    >>> from accelnb.training.parallel.slices import overlap
    >>> overlap(slice(0, 10), own=slice(6, 12))
    (slice(6, 10, None), slice(0, 4, None))
    >>> overlap(slice(0, 6), own=slice(6, 12)) is None
    True
    """
    start, stop = max(rows.start, own.start), min(rows.stop, own.stop)
    if start >= stop:
        return None
    return slice(start - rows.start, stop - rows.start), slice(start - own.start, stop - own.start)


def buffer_on(device: torch.device) -> torch.Tensor:
    """Return memory for what is on its way: one for all tensors, or the heap gets holes."""
    return torch.empty(BYTES_AT_ONCE, dtype=torch.uint8, device=device)


@torch.no_grad()
def send_from_rank_0(
    whole: torch.Tensor | None, target: torch.Tensor, buffer: torch.Tensor
) -> None:
    """Put a tensor that rank 0 has into one that may be divided: each process gets its part.

    A collective of all processes. None has more of it in memory than its part and one block of
    rows, which goes by a buffer on a device that the processes' backend can send from.
    """
    part, own = rows_of(local_part(target)), own_slices(target) or (slice(0, 1),)
    for rows, sent in blocks_from_rank_0(whole, target, buffer):
        if found := overlap(rows, own[0]):
            there, here = found
            part[here].copy_(sent[there][(slice(None), *own[1:])])


def blocks_from_rank_0(
    whole: torch.Tensor | None, target: torch.Tensor, buffer: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield a tensor that rank 0 has in blocks of rows, on all processes. A collective."""
    shape, its = tuple(target.shape) or (1,), target.element_size()
    row = its * math.prod(shape[1:])
    if row > len(buffer):
        buffer = torch.empty(row, dtype=torch.uint8, device=buffer.device)
    for rows in rows_at_once(shape, its):
        sent = buffer[: row * (rows.stop - rows.start)]
        block = sent.view(target.dtype).view(-1, *shape[1:]) if row else target.new_empty(shape)
        if whole is not None:
            block.copy_(rows_of(whole.detach())[rows])
        if dist.is_initialized() and row:
            dist.broadcast(sent, 0)  # as bytes: backends do not know all types
        yield rows, block


def rows_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that has rows: one for a number."""
    return tensor if tensor.ndim else tensor.view(1)
