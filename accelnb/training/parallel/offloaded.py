"""Weights that hooks of big models keep on CPU or disk between forward passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from accelnb.errors import AccelnbError


def offloaded(model: nn.Module) -> dict[str, tuple[Mapping[str, torch.Tensor], str]]:
    """Return where the weights are that a model holds on the meta device: a mapping, and a key.

    Examples
    --------
    >>> import torch
    >>> from accelnb import cpu_offload
    >>> from accelnb.training.parallel.offloaded import offloaded
    >>> list(offloaded(cpu_offload(torch.nn.Linear(2, 1))))
    ['weight', 'bias']
    """
    return {
        f"{prefix}.{name}" if prefix else name: (hook.weights_map, name)
        for prefix, module in model.named_modules()
        for hook in _hooks(module)
        for name, tensor in _tensors(module, hook.place_submodules)
        if tensor.is_meta and name in hook.weights_map
    }


def _hooks(module: nn.Module) -> list[Any]:
    hook: Any = getattr(module, "_hf_hook", None)
    hooks = getattr(hook, "hooks", (hook,))
    return [
        it for it in hooks if getattr(it, "offload", False) is True and it.weights_map is not None
    ]


def _tensors(module: nn.Module, recurse: bool) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(recurse=recurse)
    yield from module.named_buffers(recurse=recurse)


def with_offloaded(model: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """Return a model's state dict with the weights that are kept elsewhere; files stay mapped."""
    elsewhere = offloaded(model)
    for name in state.keys() & elsewhere.keys():
        weights, key = elsewhere[name]
        state[name] = weights[key].detach()
    return state


def refuse_to_load(models: Iterable[nn.Module]) -> None:
    """Refuse to load a checkpoint into models with weights elsewhere: they would stay there."""
    for model in models:
        if names := offloaded(model):
            raise AccelnbError(
                f"this {type(model).__name__} keeps weights on cpu or disk (as {next(iter(names))})"
                ", and no checkpoint can be loaded into those: load it, then dispatch the model"
            )


def refuse_to_train(models: Iterable[nn.Module], optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer of weights that are kept elsewhere: it would change nothing."""
    optimized = {id(it) for group in optimizer.param_groups for it in group["params"]}
    for model in models:
        names = offloaded(model)
        for name, parameter in model.named_parameters() if names else ():
            if name in names and id(parameter) in optimized and parameter.requires_grad:
                raise AccelnbError(
                    f"{name} is kept on cpu or disk and cannot be trained: freeze such weights "
                    "with requires_grad_(False), or put their modules on a device"
                )
