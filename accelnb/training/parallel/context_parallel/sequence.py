"""A sequence that several processes share: each has a part of the tensors that hold it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from accelnb.errors import AccelnbError


@dataclass(frozen=True)
class SequenceShare:
    """Into how many parts sequences are divided, and which of them is this process's.

    Examples
    --------
    >>> import torch
    >>> from accelnb.training.parallel.context_parallel.sequence import SequenceShare
    >>> SequenceShare(parts=2, part=1).of(torch.arange(6), 0)
    tensor([3, 4, 5])
    """

    parts: int
    part: int

    def of(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """Return a copy of this process's part of a tensor along a dimension."""
        length = tensor.shape[dim] // self.parts
        part = tensor.narrow(dim, self.part * length, length)
        # A copy, and contiguous as the whole most likely is: then view(-1) works on both.
        return part.clone(memory_format=torch.contiguous_format)


@contextmanager
def in_parts(
    buffers: Sequence[torch.Tensor],
    dims: Sequence[int],
    keep: Iterable[torch.Tensor],
    share: SequenceShare,
) -> Iterator[None]:
    """Hold in each tensor this process's part of it while the block runs.

    The tensor objects stay the same ones. What the block writes to a part is lost with it.

    Parameters
    ----------
    buffers
        Of one sequence length, each along its dimension of `dims`.
    keep
        Those that keep their part after the block.

    Raises
    ------
    AccelnbError
        Something cannot be divided. Nothing has been changed.
    """
    kept = {id(tensor) for tensor in keep}
    _check(buffers, dims, kept, share)
    wholes: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        for tensor, dim in zip(buffers, dims, strict=True):
            if id(tensor) not in kept:
                wholes.append((tensor, tensor.data))
            tensor.data = share.of(tensor.data, dim)
        yield
    finally:
        for tensor, whole in wholes:
            tensor.data = whole
            if not tensor.is_inference():
                # A backward pass after the block that needs the part now fails, rather than
                # that it computes with the whole.
                torch.autograd.graph.increment_version(tensor)


def length_along(buffers: Sequence[torch.Tensor], dims: Sequence[int]) -> int | None:
    """Return the length of the sequence that buffers hold; None if there are none."""
    return next((tensor.shape[dim] for tensor, dim in zip(buffers, dims, strict=True)), None)


def _check(
    buffers: Sequence[torch.Tensor], dims: Sequence[int], kept: set[int], share: SequenceShare
) -> None:
    if len(buffers) != len(dims):
        raise AccelnbError(
            f"maybe_context_parallel: {len(buffers)} buffers but {len(dims)} buffer_seq_dims: give "
            "one dimension for each buffer"
        )
    if len({id(tensor) for tensor in buffers}) < len(buffers):
        raise AccelnbError("maybe_context_parallel: a tensor is there twice in buffers")
    if not kept <= {id(tensor) for tensor in buffers}:
        raise AccelnbError(
            "maybe_context_parallel: no_restore_buffers has a tensor that is not in buffers"
        )
    for number, (tensor, dim) in enumerate(zip(buffers, dims, strict=True)):
        _check_one(f"maybe_context_parallel: buffers[{number}]", tensor, dim)
    lengths = {tensor.shape[dim] for tensor, dim in zip(buffers, dims, strict=True)}
    if len(lengths) > 1:
        raise AccelnbError(
            f"maybe_context_parallel: the buffers are {', '.join(map(str, sorted(lengths)))} long "
            "along their buffer_seq_dims: give tensors of one sequence length (cut those that "
            "are longer, such as tables of positions)"
        )
    for length in lengths:
        if length % share.parts:
            raise AccelnbError(
                f"maybe_context_parallel: a sequence of {length} is not divided by {share.parts} "
                f"ranks: pad it to {-(-length // share.parts) * share.parts}"
            )


def _check_one(name: str, tensor: torch.Tensor, dim: int) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise AccelnbError(f"{name} is {type(tensor).__name__}: give tensors")
    if hasattr(tensor, "placements"):
        raise AccelnbError(f"{name} is a DTensor: give plain tensors")
    if not -tensor.ndim <= dim < tensor.ndim:
        raise AccelnbError(f"{name} has {tensor.ndim} dimensions, none is {dim} (buffer_seq_dims)")
    if tensor.requires_grad:
        raise AccelnbError(
            f"{name} has gradients, which would not fit its part: give what it is computed from"
        )
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        raise AccelnbError(f"{name} was made in torch.inference_mode(): enter the block in it too")
