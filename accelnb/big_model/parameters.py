"""A parameter made anew, of the class that the module's old one has."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_INT8 = "Int8Params"
_PACKED = "Params4bit"
_BITSANDBYTES = (_INT8, "FP4Params", _PACKED)
_SCALES = "SCB"

# How the names end that bitsandbytes adds to a state dict.
OF_BITSANDBYTES = (f".{_SCALES}", ".weight_format")


def is_of_bitsandbytes(parameter: torch.Tensor) -> bool:
    """Return whether a parameter is one that bitsandbytes quantizes."""
    return type(parameter).__name__ in _BITSANDBYTES


def scales_name(name: str) -> str:
    """Return what the scales of a weight of 8 bits are called.

    Examples
    --------
    >>> from accelnb.big_model.parameters import scales_name
    >>> scales_name("layers.0.weight")
    'layers.0.SCB'
    """
    return name.replace("weight", _SCALES)


def is_packed(parameter: torch.Tensor) -> bool:
    """Return whether a parameter's shape is another once it is quantized."""
    return type(parameter).__name__ == _PACKED


def parameter_like(
    old: nn.Parameter,
    value: torch.Tensor,
    device: torch.device,
    dtype: torch.dtype,
    fp16_statistics: torch.Tensor | None = None,
    non_blocking: bool = False,
) -> nn.Parameter:
    """Return a parameter for the place of another one, with its class and attributes.

    One of bitsandbytes is quantized where its class does that: on its way to a device.
    """
    with torch.no_grad():
        if is_of_bitsandbytes(old):
            new = _of_bitsandbytes(old, value, device, dtype, non_blocking)
            if fp16_statistics is not None:
                new.SCB = fp16_statistics.to(device, non_blocking=non_blocking)
            return new
        data = value.detach().to(device, dtype, non_blocking=non_blocking)
        if type(old) is nn.Parameter or is_traceable_wrapper_subclass(old):
            new = nn.Parameter(data, requires_grad=old.requires_grad)
        else:
            kind: Any = type(old)
            new = kind(data, requires_grad=old.requires_grad)
    vars(new).update(vars(old))
    return new


def _of_bitsandbytes(
    old: nn.Parameter,
    value: torch.Tensor,
    device: torch.device,
    dtype: torch.dtype,
    non_blocking: bool,
) -> Any:
    kind: Any = type(old)
    attributes = dict(vars(old))
    others = {name: attributes.pop(name) for name in ("_is_hf_initialized",) if name in attributes}
    if kind.__name__ == _INT8:
        attributes["CB"] = None  # the quantized weight itself: it would keep the old memory
    data = value.detach()
    if data.dtype.is_floating_point:
        data = data.to("cpu" if device.type != "meta" else device, dtype)  # it is quantized then
    else:
        data = data.to(device, non_blocking=non_blocking)
    new = kind(data, requires_grad=old.requires_grad, **attributes)
    if device.type != "meta":  # there it would lose the scales too, which are small and needed
        new = new.to(device)
    vars(new).update(others)
    return new
