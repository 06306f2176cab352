"""Weights in few bits, known by what they have: of bitsandbytes and torchao, which stay unimported.

Their tensors alone do not say what the values are. Beside them are scales, which lie in attributes
(bitsandbytes) or in the tensor's own parts (torchao).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def is_quantized(parameter: torch.Tensor) -> bool:
    """Return whether a parameter's values are kept in few bits."""
    if getattr(parameter, "quant_state", None) is not None:
        return True
    if hasattr(parameter, "SCB"):
        return parameter.dtype == torch.int8
    # Its tensors for training in fp8 are of another module, and wider ones are the parameters.
    return type(parameter).__module__.startswith("torchao.quantization")


def quantized_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters in few bits, by name."""
    return {name: it for name, it in model.named_parameters() if is_quantized(it)}


def tensors_behind(parameter: Any, layer: Any) -> list[torch.Tensor]:
    """Return the plain tensors that the values of a parameter in few bits are made of.

    Parameters
    ----------
    layer
        The module that it is in: of 8 bits the scales move there in the first forward pass.
    """
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        nested = state.state2
        held = [state.absmax, state.code, state.offset]
        held += [nested.absmax, nested.code] if nested is not None else []
        return [parameter.data, *(it for it in held if isinstance(it, torch.Tensor))]
    if hasattr(parameter, "SCB"):
        scales = parameter.SCB if parameter.SCB is not None else layer.state.SCB
        return [parameter.data, scales]
    names, _ = parameter.data.__tensor_flatten__()
    return [getattr(parameter.data, name) for name in names]


def layers_of_4_bits(model: nn.Module) -> list[Any]:
    """Return the layers of bitsandbytes whose weights are in 4 bits."""
    return [it for it in model.modules() if getattr(it, "quant_state", None) is not None]


def without_scales(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Put the scales in a state dict into the layers of bitsandbytes; return the rest of it.

    ``load_state_dict`` leaves them out without a word (4 bits), or fails after a forward pass (8).
    """
    rest = dict(state)
    for path, layer in model.named_modules():
        around = f"{path}." if path else ""
        weight: Any = layer._parameters.get("weight")
        # Of a divided weight it is the layer that knows.
        of_4_bits = getattr(weight, "quant_state", None) or getattr(layer, "quant_state", None)
        if of_4_bits is not None:
            _put_state(of_4_bits, weight.device, _taken(rest, f"{around}weight."))
        elif weight is not None and is_quantized(weight) and hasattr(weight, "SCB"):
            rest.pop(f"{around}weight_format", None)
            scales = rest.pop(f"{around}SCB", None)
            if scales is not None:
                tensors_behind(weight, layer)[1].copy_(scales)
    return rest


def _put_state(state: Any, device: torch.device, its: dict[str, Any]) -> None:
    if its:  # the object stays, for others hold it too: the layer, a gathered weight
        vars(state).update(vars(type(state).from_dict(its, device=device)))


def _taken(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    names = [name for name in state if name.startswith(prefix)]
    return {name.removeprefix(prefix): state.pop(name) for name in names}
