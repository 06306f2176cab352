"""What processes with parts of one sequence exchange, with gradients.

Gradients are those of the sum of the losses of all processes. ``torch.distributed.nn.functional``
has an all-gather too; its gradients are wrong on gloo where they arrive transposed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed._functional_collectives  # registers them
from torch.autograd import Function

# Those that torch.compile can trace too.
_collectives = torch.ops._c10d_functional

# Dimensions of what attention takes: (..., heads, sequence, features).
_HEADS, _SEQUENCE = -3, -2


def gathered_sequence(part: torch.Tensor, group: Any, dim: int = _SEQUENCE) -> torch.Tensor:
    """Return the whole sequence of which each process of a group gives a part."""
    return _Gather.apply(part, group, dim)  # pyright: ignore[reportReturnType]


def heads_of_whole_sequence(part: torch.Tensor, group: Any) -> torch.Tensor:
    """Give all heads of a part of the sequence; return the whole sequence of a part of the heads.

    Parameters
    ----------
    part
        Of shape (..., heads, sequence, features), with heads that the group's size divides.
    """
    return _ToHeads.apply(part, group)  # pyright: ignore[reportReturnType]


def part_of_all_heads(heads: torch.Tensor, group: Any) -> torch.Tensor:
    """Give the whole sequence of a part of the heads; return a part of it, of all heads."""
    return _ToSequence.apply(heads, group)  # pyright: ignore[reportReturnType]


def started_to_next(tensor: torch.Tensor, group: Any) -> torch.Tensor:
    """Start to send a tensor to the next process, the last one's to the first.

    Returns
    -------
    coming
        What the previous process sends, for `receive`.
    """
    places, place, rows = group.size(), group.rank(), tensor.shape[0]
    sent, received = [0] * places, [0] * places
    sent[(place + 1) % places] = received[(place - 1) % places] = rows
    return _collectives.all_to_all_single(tensor.contiguous(), received, sent, group.group_name)


def receive(coming: torch.Tensor) -> torch.Tensor:
    """Wait for what `started_to_next` returned, and return it whole."""
    return _collectives.wait_tensor(coming)


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, part: torch.Tensor, group: Any, dim: int) -> torch.Tensor:
        ctx.group, ctx.dim = group, dim
        rows = part.movedim(dim, 0).contiguous()
        sent = _collectives.all_gather_into_tensor(rows, group.size(), group.group_name)
        return _collectives.wait_tensor(sent).movedim(0, dim)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        return _SumOfParts.apply(grads[0], ctx.group, ctx.dim), None, None


class _SumOfParts(Function):
    @staticmethod
    def forward(ctx: Any, whole: torch.Tensor, group: Any, dim: int) -> torch.Tensor:
        ctx.group, ctx.dim = group, dim
        rows = whole.movedim(dim, 0).contiguous()
        sent = _collectives.reduce_scatter_tensor(rows, "sum", group.size(), group.group_name)
        return _collectives.wait_tensor(sent).movedim(0, dim)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        return gathered_sequence(grads[0], ctx.group, ctx.dim), None, None


class _ToHeads(Function):
    @staticmethod
    def forward(ctx: Any, part: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        received = _exchanged(part.unflatten(_HEADS, (group.size(), -1)).movedim(-4, 0), group)
        return received.movedim(0, -3).flatten(-3, -2)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return part_of_all_heads(grads[0], ctx.group), None


class _ToSequence(Function):
    @staticmethod
    def forward(ctx: Any, heads: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        received = _exchanged(heads.unflatten(_SEQUENCE, (group.size(), -1)).movedim(-3, 0), group)
        return received.movedim(0, -4).flatten(-4, -3)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return heads_of_whole_sequence(grads[0], ctx.group), None


def _exchanged(for_each: torch.Tensor, group: Any) -> torch.Tensor:
    """Send each process what lies at its place of the first dimension; return what came back."""
    sizes = [1] * group.size()
    sent = _collectives.all_to_all_single(for_each.contiguous(), sizes, sizes, group.group_name)
    return _collectives.wait_tensor(sent)
