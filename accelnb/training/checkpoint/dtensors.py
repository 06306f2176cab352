"""Tensors that are divided over ranks: found in states, taken out of them, put back, made whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from accelnb.training.dtensors import is_dtensor, reshard
from accelnb.training.parallel.slices import own_slices
from accelnb.training.state import PartialState

Tensors = dict[str, torch.Tensor]


def as_shards(model: nn.Module) -> nn.Module:
    """Return the model with what FSDP has gathered divided again, as its optimizers see it."""
    reshard(model)
    return model


# ---- out of a structure, and into it ----


def taken_out(state: Any, key: str, found: Tensors) -> Any:
    """Return a structure with tensors without values for its DTensors, which `found` gets.

    Parameters
    ----------
    key
        The name of the structure; those of what is in it begin with it.
    """

    def take(path: str, value: torch.Tensor) -> torch.Tensor:
        if not is_dtensor(value):
            return value
        found[path] = _without_sums(value)
        return torch.empty(value.shape, dtype=value.dtype, device="meta")

    return mapped(state, key, take)


def mapped(state: Any, key: str, change: Callable[[str, torch.Tensor], Any]) -> Any:
    """Return a structure with ``change(key, tensor)`` for its tensors; equal parts are kept."""
    if isinstance(state, torch.Tensor):
        return change(key, state)
    if isinstance(state, Mapping):
        made = {k: mapped(value, f"{key}.{k}", change) for k, value in state.items()}
        return made if any(made[k] is not state[k] for k in made) else state
    if isinstance(state, list | tuple):
        items = [mapped(value, f"{key}.{i}", change) for i, value in enumerate(state)]
        if all(new is old for new, old in zip(items, state, strict=True)):
            return state
        if hasattr(state, "_fields"):
            return type(state)(*items)
        return type(state)(items)
    return state


def _without_sums(tensor: Any) -> Any:
    """Return a DTensor whose ranks hold parts of its values, not summands."""
    from torch.distributed.tensor import Replicate

    placements = [Replicate() if p.is_partial() else p for p in tensor.placements]
    if tuple(placements) == tuple(tensor.placements):
        return tensor.detach()
    return tensor.detach().redistribute(placements=placements)  # a collective


# ---- parts and wholes ----


def room_for(shape: Any, dtype: torch.dtype, like: Any) -> torch.Tensor:
    """Return a tensor to read into what belongs to the tensor `like`, divided as it is."""
    if is_dtensor(like) and tuple(shape) == tuple(like.shape):
        return _empty_like(like, dtype)
    return torch.empty(tuple(shape), dtype=dtype)


def _empty_like(like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor that can hold values, also where `like` has none (the meta device)."""
    device = PartialState().device if like.is_meta else like.device
    return torch.empty_like(like.detach(), dtype=dtype, device=device)


def fitted(value: torch.Tensor, like: Any) -> torch.Tensor:
    """Return a whole tensor, or one from `room_for`, as the state of the tensor `like` needs it.

    This rank's part of it, if that is divided. No collective.
    """
    if not is_dtensor(like) or is_dtensor(value) or value.ndim == 0:
        return value
    if value.shape == like.shape:
        return part_of(value, like)
    from torch.distributed.tensor import DTensor, Replicate

    copies = [Replicate()] * like.device_mesh.ndim
    return DTensor.from_local(value, like.device_mesh, copies, run_check=False)


def part_of(whole: Any, like: Any) -> torch.Tensor:
    """Return this rank's part of a tensor, or of a slice of a file, divided as `like` is."""
    mine = whole[own_slices(like)]
    part: Any = _empty_like(like, mine.dtype)
    part.to_local().copy_(mine)
    return part


def gathered(tensor: Any, keep: bool) -> torch.Tensor | None:
    """Return a whole tensor on the CPU where `keep` is set, None elsewhere. A collective."""
    whole: Any = tensor.detach()
    if is_dtensor(whole):
        with without_advice():
            whole = whole.full_tensor()
    return whole.cpu() if keep else None


@contextmanager
def without_advice() -> Iterator[None]:
    """Keep torch from saying in a block that tensors divided twice are gathered in two steps."""
    logger = logging.getLogger("torch.distributed.tensor._redistribute")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
