"""Layers whose weights take less memory between their forward passes."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from accelnb.big_model.hooks import ModelHook, add_hook_to_module, not_compiled

SUPPORTED_PYTORCH_LAYERS_FOR_UPCASTING = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)


class LayerwiseCastingHook(ModelHook):
    """Keep a module's weights in one type, and compute with them in another.

    Parameters
    ----------
    storage_dtype
        The smaller one, such as ``torch.float8_e4m3fn``.
    compute_dtype
        The one of its forward pass.
    non_blocking
        Do not wait for the conversion.
    """

    def __init__(
        self, storage_dtype: torch.dtype, compute_dtype: torch.dtype, non_blocking: bool
    ) -> None:
        self.storage_dtype = storage_dtype
        self.compute_dtype = compute_dtype
        self.non_blocking = non_blocking

    def init_hook(self, module: nn.Module) -> nn.Module:
        return self._cast(module, self.storage_dtype)

    @not_compiled
    def pre_forward(
        self, module: nn.Module, *args: Any, **kwargs: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self._cast(module, self.compute_dtype)
        return args, kwargs

    @not_compiled
    def post_forward(self, module: nn.Module, output: Any) -> Any:
        self._cast(module, self.storage_dtype)
        return output

    def _cast(self, module: nn.Module, dtype: torch.dtype) -> nn.Module:
        return module.to(dtype=dtype, non_blocking=self.non_blocking)


def attach_layerwise_casting_hooks(
    module: nn.Module,
    storage_dtype: torch.dtype,
    compute_dtype: torch.dtype,
    skip_modules_pattern: str | tuple[str, ...] | list[str] | None = None,
    skip_modules_classes: tuple[type[nn.Module], ...] | None = None,
    non_blocking: bool = False,
) -> None:
    """Keep the weights of linear and convolution layers in a smaller type.

    Parameters
    ----------
    storage_dtype
        The type in which they are kept.
    compute_dtype
        The type in which they compute.
    skip_modules_pattern
        Regular expressions: modules in whose names one is found stay as they are, and so does what
        is in them.
    skip_modules_classes
        Classes of modules that stay as they are, with what is in them.
    non_blocking
        Do not wait for conversions.

    Examples
    --------
    >>> import torch
    >>> from accelnb import attach_layerwise_casting_hooks
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    >>> attach_layerwise_casting_hooks(model, torch.float8_e4m3fn, torch.float32)
    >>> model[0].weight.dtype, model[1].weight.dtype, model(torch.ones(1, 4)).dtype
    (torch.float8_e4m3fn, torch.float32, torch.float32)
    """
    one = isinstance(skip_modules_pattern, str)
    patterns = (skip_modules_pattern,) if one else tuple(skip_modules_pattern or ())
    classes = skip_modules_classes or ()

    def attach(part: nn.Module, name: str) -> None:
        if isinstance(part, classes) or any(re.search(pattern, name) for pattern in patterns):
            return
        if isinstance(part, SUPPORTED_PYTORCH_LAYERS_FOR_UPCASTING):
            hook = LayerwiseCastingHook(storage_dtype, compute_dtype, non_blocking)
            add_hook_to_module(part, hook, append=True)
            return
        for child_name, child in part.named_children():
            attach(child, f"{name}.{child_name}" if name else child_name)

    attach(module, "")
