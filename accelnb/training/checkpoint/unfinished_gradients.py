"""The gradients of an accumulation that is not complete: each rank has its own."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from accelnb.training.checkpoint.dtensors import as_shards
from accelnb.training.checkpoint.weights import unwrapped
from accelnb.training.dtensors import is_dtensor, of_part

_PARTS, _WHOLE, _LAYOUT = "parts", "whole", "layout"


def capture(models: Sequence[nn.Module]) -> list[dict[str, Any]] | dict[str, Any]:
    """Return the gradients that this rank has, by the names of their parameters.

    Of models that are divided over ranks its parts, and what it has to be added to those of other
    ranks, with how the models are divided: it is of no use to other layouts.
    """
    inner = [as_shards(unwrapped(model)) for model in models]
    gradients = [
        {name: _part(p) for name, p in model.named_parameters() if p.grad is not None}
        for model in inner
    ]
    layout = layout_of(inner)
    if not layout:
        return gradients
    return {_LAYOUT: layout, _PARTS: gradients, _WHOLE: [_not_yet_summed(m) for m in inner]}


def layout_of(models: Sequence[nn.Module]) -> str:
    """Return a text that is equal where models are divided in the same way; empty if none is."""
    parameters: list[Any] = [
        (index, name, parameter)
        for index, model in enumerate(models)
        for name, parameter in model.named_parameters()
        if is_dtensor(parameter)
    ]
    divided = [
        (index, name, tuple(p.shape), str(p.placements), p.device_mesh.mesh.tolist())
        for index, name, p in parameters
    ]
    return hashlib.sha256(repr(divided).encode()).hexdigest() if divided else ""


def fits(captured: Any, models: Sequence[nn.Module]) -> bool:
    """Return whether gradients are of models that are divided as these are."""
    saved = captured.get(_LAYOUT) if isinstance(captured, dict) else ""
    return saved == layout_of([as_shards(unwrapped(model)) for model in models])


def restore(models: Sequence[nn.Module], captured: Any | None) -> None:
    """Set the gradients of models to those that were captured, and no others."""
    parts, whole = captured or [], []
    if isinstance(captured, dict):
        parts, whole = captured[_PARTS], captured[_WHOLE]
    for index, model in enumerate(models):
        inner = as_shards(unwrapped(model))
        held = parts[index] if index < len(parts) else {}
        for name, parameter in inner.named_parameters():
            gradient = held.get(name)
            parameter.grad = None if gradient is None else _as_gradient(gradient, parameter)
        waiting = whole[index] if index < len(whole) else {}
        for name, gathered in _gathered_parameters(inner):
            gathered.unsharded_accumulated_grad = _to_be_summed(waiting.get(name), gathered)
            if (used := getattr(gathered, "_unsharded_param", None)) is not None:
                used.grad = None


def _part(parameter: Any) -> torch.Tensor:
    gradient = parameter.grad.detach()
    if not is_dtensor(gradient):
        return gradient
    if gradient.placements != parameter.placements:
        gradient = gradient.redistribute(placements=parameter.placements)
    return gradient.to_local()


def _as_gradient(part: torch.Tensor, parameter: Any) -> torch.Tensor:
    part = part.to(parameter.device)
    if not is_dtensor(parameter):
        return part
    gradient: Any = torch.empty_like(parameter.detach(), dtype=part.dtype)
    gradient.to_local().copy_(part)
    return gradient


# ---- what FSDP keeps in `no_sync`: whole gradients, beside the parameters ----


def _gathered_parameters(model: nn.Module) -> list[tuple[str, Any]]:
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None:
        return []
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    units: list[Any] = [m for m in model.modules() if isinstance(m, fsdp.FSDPModule)]
    groups = [group for module in units for group in module._get_fsdp_state()._fsdp_param_groups]
    return [(names[id(p.sharded_param)], p) for group in groups for p in group.fsdp_params]


def _not_yet_summed(model: nn.Module) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name, gathered in _gathered_parameters(model):
        gradient = gathered.unsharded_accumulated_grad
        if gradient is None:
            gradient = getattr(getattr(gathered, "_unsharded_param", None), "grad", None)
        if gradient is not None:
            found[name] = gathered._get_grad_inner_tensor(gradient.detach())
    return found


def _to_be_summed(gradient: torch.Tensor | None, gathered: Any) -> torch.Tensor | None:
    if gradient is None:
        return None
    gradient = gradient.to(gathered.sharded_param.device)
    if not gathered.is_dtensor:
        return gradient
    return of_part(gradient, gathered._unsharded_dtensor_spec)
