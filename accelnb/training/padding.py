"""Making tensors of one size, so that they can be gathered or divided."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from accelnb.errors import AccelnbError
from accelnb.training import communication, debug_mode
from accelnb.training.pytree import recursively_apply
from accelnb.training.state import PartialState


class CannotPadNestedTensorWarning(UserWarning):
    """A nested tensor was left as it is."""


def pad_across_processes(
    tensor: Any, dim: int = 0, pad_index: int | float | bool = 0, pad_first: bool = False
) -> Any:
    """Pad every tensor of a structure to the size of the largest among the ranks.

    Gradients flow through it, as they do not through the collectives.

    Parameters
    ----------
    tensor
        A tensor or a structure of tensors. Other dimensions than `dim` may differ too: pad them
        by another call.
    dim
        The dimension to pad; negative ones count from the last. Tensors without it stay as they
        are.
    pad_index
        What to pad with.
    pad_first
        Pad at the beginning.

    Raises
    ------
    TypeError
        Something is neither a tensor nor a structure.
    DistributedOperationException
        In the debug mode: ranks give different structures.

    Examples
    --------
    >>> import torch
    >>> from accelnb.utils import pad_across_processes
    >>> pad_across_processes(torch.ones(2, 3), dim=1).shape  # one process: nothing to pad
    torch.Size([2, 3])
    """
    if PartialState().num_processes == 1:
        return tensor
    debug_mode.check(f"pad_across_processes(dim={dim})", tensor, debug_mode.dimensions)
    padded = [part for part in communication.tensors_in(_without_nested(tensor)) if _has(part, dim)]
    if not padded:
        return tensor
    sizes = communication.all_gather_numbers([part.shape[dim] for part in padded])
    largest = iter([max(column) for column in zip(*sizes, strict=True)])

    def pad(part: torch.Tensor) -> torch.Tensor:
        if part.is_nested or not _has(part, dim):
            return part
        return _filled(part, dim % part.ndim, next(largest), pad_index, pad_first)

    return recursively_apply(pad, tensor)


def pad_input_tensors(tensor: Any, batch_size: int, num_processes: int, dim: int = 0) -> Any:
    """Repeat the last sample of every tensor until `num_processes` divides the batch.

    Raises
    ------
    AccelnbError
        A tensor has not `batch_size` samples in dimension `dim`.

    Examples
    --------
    >>> import torch
    >>> from accelnb.utils import pad_input_tensors
    >>> pad_input_tensors(torch.tensor([1, 2, 3]), batch_size=3, num_processes=2)
    tensor([1, 2, 3, 3])
    """
    missing = -batch_size % num_processes

    def pad(part: torch.Tensor) -> torch.Tensor:
        if not _has(part, dim) or part.shape[dim] != batch_size:
            raise AccelnbError(
                f"batch_size={batch_size}: a tensor has shape {list(part.shape)}, which is not "
                f"{batch_size} in dimension {dim}"
            )
        if not missing or not batch_size:
            return part
        last = part.narrow(dim, batch_size - 1, 1)
        return torch.cat([part, *[last] * missing], dim=dim)

    return recursively_apply(pad, tensor, error_on_other_type=True)


def _has(tensor: torch.Tensor, dim: int) -> bool:
    return -tensor.ndim <= dim < tensor.ndim


def _without_nested(data: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    recursively_apply(found.append, data, error_on_other_type=True)
    if any(tensor.is_nested for tensor in found):
        warnings.warn(
            "a nested tensor cannot be padded across processes and is left as it is",
            CannotPadNestedTensorWarning,
            stacklevel=3,
        )
    return [tensor for tensor in found if not tensor.is_nested]


def _filled(
    tensor: torch.Tensor, dim: int, size: int, value: int | float | bool, first: bool
) -> torch.Tensor:
    missing = size - tensor.shape[dim]
    if not missing:
        return tensor
    shape = [missing if d == dim else length for d, length in enumerate(tensor.shape)]
    filler = tensor.new_full(shape, value)
    return torch.cat([filler, tensor] if first else [tensor, filler], dim=dim)
