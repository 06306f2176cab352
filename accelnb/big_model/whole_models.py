"""Hooks for whole models that take turns on a device."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import nn

from accelnb.big_model.hooks import ModelHook, not_compiled, remove_hook_from_module
from accelnb.big_model.places import Place, as_device, is_same_device
from accelnb.training.memory import clear_device_cache
from accelnb.training.pytree import send_to_device
from accelnb.training.state import PartialState

_CPU = torch.device("cpu")


class CpuOffload(ModelHook):
    """Keep a model on the CPU until it computes; it then stays on the device.

    Parameters
    ----------
    execution_device
        Where it computes. By default the best device of this machine.
    prev_module_hook
        Of the model before it in a pipeline, which goes to the CPU when this one computes.
    """

    def __init__(
        self,
        execution_device: Place | None = None,
        prev_module_hook: UserCpuOffloadHook | None = None,
    ) -> None:
        self.prev_module_hook = prev_module_hook
        self.execution_device = (
            PartialState().default_device if execution_device is None else execution_device
        )

    def init_hook(self, module: nn.Module) -> nn.Module:
        return module.to("cpu")

    @not_compiled
    def pre_forward(
        self, module: nn.Module, *args: Any, **kwargs: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        before = self.prev_module_hook
        if isinstance(before, UserCpuOffloadHook) and _device_of(before.model) not in (None, _CPU):
            before.offload()
            clear_device_cache()
        device = as_device(self.execution_device)
        current = _device_of(module)
        if current is not None and not is_same_device(current, device):
            module.to(device)
        return send_to_device(args, device), send_to_device(kwargs, device)


def _device_of(model: nn.Module) -> torch.device | None:
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return None if tensor is None else tensor.device


class UserCpuOffloadHook:
    """A model with its `CpuOffload`: what `cpu_offload_with_hook` returns."""

    def __init__(self, model: nn.Module, hook: ModelHook) -> None:
        self.model = model
        self.hook = hook

    def offload(self) -> None:
        """Send the model to the CPU."""
        self.hook.init_hook(self.model)

    def remove(self) -> None:
        """Take the hook off; the model stays where it is."""
        remove_hook_from_module(self.model)
