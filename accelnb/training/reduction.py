"""Combining the tensors of all ranks, element by element."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from accelnb.errors import AccelnbError
from accelnb.training import communication, debug_mode, whereabouts
from accelnb.training.pytree import recursively_apply
from accelnb.training.state import PartialState

_OPERATIONS = {
    "sum": dist.ReduceOp.SUM,
    "mean": dist.ReduceOp.SUM,  # gloo has no average
    "max": dist.ReduceOp.MAX,
    "min": dist.ReduceOp.MIN,
    "none": None,
}

# What neither gloo nor nccl can reduce, and a dtype that holds its values.
_REDUCED_AS = {
    torch.int16: torch.int32,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    torch.float8_e4m3fn: torch.float32,
    torch.float8_e5m2: torch.float32,
}


def reduce(tensor: Any, reduction: str = "mean", scale: float = 1.0) -> Any:
    """Combine the tensors of all ranks, element by element, in every place of a structure.

    Parameters
    ----------
    tensor
        A tensor or a structure of tensors, of shapes and dtypes that are equal on all ranks. It
        is not changed.
    reduction
        ``sum``, ``mean``, ``max``, ``min``; or ``none``, which returns this rank's own values.
        The mean of integers and of booleans is a float; the sum of booleans is whether any is
        true.
    scale
        Multiplies the result, which is then a float.

    Returns
    -------
    reduced
        The structure with new tensors of the same shapes, on every rank.

    Raises
    ------
    TypeError
        Something is neither a tensor nor a structure.
    AccelnbError
        `reduction` is another word, or a dtype has no such reduction.
    DistributedOperationException
        In the debug mode: the ranks' tensors do not fit together.

    Examples
    --------
    >>> import torch
    >>> from accelnb.utils import reduce
    >>> reduce(torch.tensor([1, 2]), "sum")  # one process
    tensor([1, 2])
    """
    ranks = PartialState().num_processes
    return reduce_counted(tensor, reduction, scale, ranks, counts=True)


def reduce_counted(tensor: Any, reduction: str, scale: float, number: int, counts: bool) -> Any:
    """Do what `reduce` does, of the values of some ranks only; all ranks get the result.

    Parameters
    ----------
    number
        How many ranks count.
    counts
        Whether this one does.
    """
    if reduction not in _OPERATIONS:
        raise AccelnbError(f"reduction={reduction}: choose one of {', '.join(_OPERATIONS)}")
    debug_mode.check(f"reduce({reduction})", tensor)
    for part in communication.tensors_in(tensor):  # all of them before the first is sent
        _refuse_unreducible(part, reduction)
    return recursively_apply(_reduced, tensor, reduction, scale, number, counts)


def _refuse_unreducible(tensor: torch.Tensor, reduction: str) -> None:
    unordered = tensor.is_complex() and reduction in ("max", "min")
    if unordered or (tensor.dtype == torch.uint64 and reduction != "none"):
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise AccelnbError(f"reduction={reduction}: not for tensors of {dtype}; convert them first")


def _reduced(
    tensor: torch.Tensor, reduction: str, scale: float, number: int, counts: bool
) -> torch.Tensor:
    computed, result = _dtypes(tensor.dtype, reduction, scale)
    own = tensor.detach().to(computed, copy=True, memory_format=torch.contiguous_format)
    operation = _OPERATIONS[reduction]
    if operation == dist.ReduceOp.SUM and not counts:
        own.zero_()
    if PartialState().num_processes > 1 and operation is not None and own.numel():
        values = torch.view_as_real(own) if own.is_complex() else own  # some know real ones alone
        whereabouts.collective()
        dist.all_reduce(values, operation)
    if reduction == "mean":
        own = own / number
    if scale != 1.0:
        own = own * scale
    return own.to(result)


def _dtypes(dtype: torch.dtype, reduction: str, scale: float) -> tuple[torch.dtype, torch.dtype]:
    """Return the dtype to reduce in, and that of the result."""
    computed, result = _REDUCED_AS.get(dtype, dtype), dtype
    is_number = dtype.is_floating_point or dtype.is_complex
    if reduction == "mean" and not is_number:
        computed = torch.int64  # a sum of int8 or bool would not hold the count
    elif reduction == "mean" and dtype.itemsize == 2:
        computed = torch.float32  # a sum of fp16 overflows where the mean does not
    if not is_number and (reduction == "mean" or scale != 1.0):
        result = torch.get_default_dtype()
    return computed, result
