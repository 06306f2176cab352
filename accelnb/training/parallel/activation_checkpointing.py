"""Activations that are computed again in the backward pass instead of being kept."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from accelnb.errors import AccelnbError
from accelnb.training.parallel.blocks import repeated_blocks
from accelnb.training.parallel.fully_sharded.units import outermost_units
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.plan import Plan


def apply_activation_checkpointing(model: nn.Module, mesh: Mesh, plan: Plan) -> nn.Module:
    """Have a model that trains compute its blocks' activations again, if that is asked for."""
    if plan.evaluation_mode:
        return model
    if plan.fsdp is not None and plan.fsdp.activation_checkpointing:
        units = outermost_units(model, plan.fsdp)
        return _checkpoint(model, units or None, bool(plan.fsdp.activation_checkpointing_offload))
    return checkpoint_activations(model) if plan.activation_checkpointing else model


def checkpoint_activations(
    model: nn.Module,
    blocks: type[nn.Module] | tuple[type[nn.Module], ...] | None = None,
    context_fn: Callable[[], Any] | None = None,
) -> nn.Module:
    """Compute the activations of a model's blocks again in the backward pass; return the model.

    It saves the memory of what lies within the blocks, for about a third more computation. Call
    it before the model is compiled or sharded. The model is changed in place.

    Parameters
    ----------
    blocks
        The classes to do it for; by default the blocks that the model repeats.
    context_fn
        Of ``torch.utils.checkpoint.checkpoint``, to keep some activations all the same.

    Raises
    ------
    AccelnbError
        The model has no such blocks.

    Examples
    --------
    >>> import torch
    >>> from accelnb.training.parallel.activation_checkpointing import checkpoint_activations
    >>> blocks = [torch.nn.TransformerEncoderLayer(8, 2, 16) for _ in range(4)]
    >>> model = checkpoint_activations(torch.nn.Sequential(*blocks))
    >>> list(model.state_dict())[0]
    '0.self_attn.in_proj_weight'
    """
    chosen = None if blocks is None else [m for m in model.modules() if isinstance(m, blocks)]
    return _checkpoint(model, chosen, context_fn=context_fn)


def _checkpoint(
    model: nn.Module,
    chosen: list[nn.Module] | None,
    offload: bool = False,
    context_fn: Callable[[], Any] | None = None,
) -> nn.Module:
    by_default = chosen is None
    if chosen is None:
        chosen = list(repeated_blocks(model))
    if not chosen:
        what = "repeated blocks" if by_default else "modules of these classes"
        raise AccelnbError(
            f"activation checkpointing: this {type(model).__name__} has no {what}; name the "
            "classes of its blocks: checkpoint_activations(model, blocks=...)"
        )
    options = {"use_reentrant": False} | ({"context_fn": context_fn} if context_fn else {})
    for block in chosen:
        if not is_checkpointed(block):
            # A partial of a bound method: a copy of the model gets one of its own.
            again = _checkpoint_on_cpu if offload else checkpoint
            block.forward = functools.partial(again, block.forward, **options)
    return model


def _checkpoint_on_cpu(*args: Any, **kwargs: Any) -> Any:
    """Keep what a block began with in the CPU's memory."""
    with torch.autograd.graph.save_on_cpu(pin_memory=torch.accelerator.is_available()):
        return checkpoint(*args, **kwargs)


def is_checkpointed(module: nn.Module) -> bool:
    """Return whether the activations of this very module are computed again."""
    forward = module.__dict__.get("forward")
    return isinstance(forward, functools.partial) and (
        forward.func is checkpoint or forward.func is _checkpoint_on_cpu
    )
