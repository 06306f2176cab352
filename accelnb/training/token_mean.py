"""The mean of losses over all tokens, however many of them each process and batch has."""

from __future__ import annotations

import torch
import torch.distributed as dist

from accelnb.errors import AccelnbError
from accelnb.training.parallel.mesh import Mesh

# Processes that differ only in their places along these have the same tokens, or the same data.
_SAME_TOKENS = ("pp", "tp")
_SAME_DATA = ("pp", "cp", "sp", "tp")

Count = torch.Tensor | int | float


def mean_of_tokens(
    total: torch.Tensor, count: Count | None, step_count: Count | None, mesh: Mesh, batches: int
) -> torch.Tensor:
    """Return a loss of which the gradients become those of the mean over all tokens.

    That is so once they were averaged over the processes, and divided by `batches`.

    Parameters
    ----------
    total, count, step_count
        See `Accelerator.mean_of_tokens`.
    batches
        By which `Accelerator.backward` divides.

    Raises
    ------
    AccelnbError
        Not one of `count` and `step_count` is given.
    """
    if (count is None) == (step_count is None):
        raise AccelnbError(
            "mean_of_tokens() takes one of count (of this batch) and step_count (of all batches "
            "of an accumulation)"
        )
    if hasattr(total, "full_tensor"):  # a DTensor, by tensor parallelism of the loss
        total = total.full_tensor()  # pyright: ignore[reportAttributeAccessIssue]
    processes = mesh.size_along(*_dividing(mesh, _SAME_TOKENS))
    if count is not None:
        everywhere = _summed(count, total.device, mesh, _SAME_TOKENS)
        return total * processes / everywhere.clamp(min=1)
    everywhere = _summed(step_count, total.device, mesh, _SAME_DATA)
    return total * (processes * batches) / everywhere.clamp(min=1)


def _summed(
    count: Count | None, device: torch.device, mesh: Mesh, same: tuple[str, ...]
) -> torch.Tensor:
    """Return the sum over the processes along all dimensions but some."""
    mine = torch.as_tensor(count, device=device).detach()
    mine = mine.to(torch.float32 if mine.is_floating_point() else torch.int64, copy=True)
    names = _dividing(mesh, same)
    if mesh.has(*names):
        dist.all_reduce(mine, group=mesh.group(*names))
    return mine


def _dividing(mesh: Mesh, same: tuple[str, ...]) -> list[str]:
    return [name for name in mesh.dimensions if name not in same]
