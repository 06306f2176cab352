"""What a model that got a part of a sequence would make up for itself, and get wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.parallel.context_parallel.attention_dispatch import is_in_block


def check_inputs_of(model: nn.Module) -> None:
    """Have a model refuse, in a block of shared sequences, inputs that do not say enough.

    It is for models that take `position_ids`, and number what they get from 0 without them; and
    for those of transformers that shift labels, where each part would lose its last one. Torch's
    ``MultiheadAttention`` is to refuse to return weights, which it computes by itself.
    """
    numbering = [m for m in model.modules() if "position_ids" in _parameters(m)]
    for module in numbering[:1]:  # the outermost
        _add_once(module, _check_numbering)
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            _add_once(module, _check_weights)


def _parameters(module: nn.Module) -> Mapping[str, Any]:
    try:
        return inspect.signature(module.forward).parameters
    except (TypeError, ValueError):  # not of Python
        return {}


def _add_once(module: nn.Module, check: Callable[..., None]) -> None:
    if check not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(check, with_kwargs=True)


def _check_weights(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if torch.compiler.is_compiling() or not is_in_block():
        return
    # Of forward(query, key, value, key_padding_mask, need_weights, ...).
    if kwargs.get("need_weights", args[4] if len(args) > 4 else True):
        raise AccelnbError(
            "context parallel: MultiheadAttention that returns weights computes attention within "
            "each rank's part of the sequence: call it with need_weights=False"
        )


def _check_numbering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if torch.compiler.is_compiling() or not is_in_block():
        return
    bound = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
    given = bound | next((v for v in bound.values() if isinstance(v, dict)), {})
    name = type(module).__name__
    if given.get("position_ids") is None:
        raise AccelnbError(
            f"context parallel: {name} got no position_ids, and would number each rank's part of "
            "the sequence from 0: give them, and have them among the buffers"
        )
    shifts = getattr(module, "loss_type", None) == "ForCausalLM"
    if shifts and given.get("labels") is not None and given.get("shift_labels") is None:
        raise AccelnbError(
            f"context parallel: {name} shifts labels by one within each rank's part: shift them "
            "before the block and compute the loss from the logits, or give shift_labels too"
        )
