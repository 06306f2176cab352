"""Linear layers of bitsandbytes: in the place of a model's own, and weights put into them.

``bitsandbytes`` looks for devices when it is imported, so that is done when a layer is made.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn

from accelnb.big_model.errors import BigModelError
from accelnb.big_model.quantization.bnb_config import BnbQuantizationConfig
from accelnb.big_model.quantization.left_out import linear_layers
from accelnb.training.available import is_4bit_bnb_available, is_8bit_bnb_available


def bitsandbytes(config: BnbQuantizationConfig) -> ModuleType:
    """Return the package.

    Raises
    ------
    BigModelError
        It is not installed, too old, or does not work on this machine.
    """
    can = is_4bit_bnb_available if config.load_in_4bit else is_8bit_bnb_available
    if not can():
        raise BigModelError(
            f"load_in_{4 if config.load_in_4bit else 8}bit: the package bitsandbytes is missing "
            "or too old; pip install -U bitsandbytes"
        )
    try:
        import bitsandbytes  # pyright: ignore[reportMissingImports]
    except Exception as error:  # from its compiled part, of which there is one for each platform
        raise BigModelError(f"bitsandbytes cannot be imported: {error}") from error
    return bitsandbytes


def replace_with_bnb_layers(
    model: nn.Module,
    bnb_quantization_config: BnbQuantizationConfig,
    modules_to_not_convert: list[str] | None = None,
    current_key_name: list[str] | None = None,
) -> nn.Module:
    """Put layers of bitsandbytes into the places of a model's linear layers; return the model.

    Their weights are quantized when the model comes to a device. `load_and_quantize_model` does
    all of it, and never has more than one layer's weights unquantized.

    Parameters
    ----------
    modules_to_not_convert
        Names of modules that stay as they are.
    current_key_name
        The names of the modules around the model, the outermost first.
    """
    method = BnbLayers(bnb_quantization_config)
    around = "".join(f"{name}." for name in current_key_name or ())
    layers = linear_layers(model, modules_to_not_convert or (), around)
    if not layers:
        warnings.warn(nothing_to_quantize(model), stacklevel=2)
    for name, layer in layers.items():
        new = method.empty(layer)
        new.weight.data, new.bias = layer.weight.data, layer.bias
        new.requires_grad_(False)
        model.set_submodule(name, new)
    return model


def nothing_to_quantize(model: nn.Module) -> str:
    """Return what to say of a model without any layer to quantize."""
    return (
        f"{type(model).__name__} has no linear layer to quantize, and stays as it is: they are all "
        "in skip_modules, or of another class, as the Conv1D of GPT-2"
    )


def has_4bit_bnb_layers(model: nn.Module) -> bool:
    """Return whether a model has layers of bitsandbytes with weights in 4 bits."""
    package = sys.modules.get("bitsandbytes")  # there are none if nothing has imported it
    return package is not None and any(
        isinstance(module, package.nn.Linear4bit) for module in model.modules()
    )


@dataclass
class BnbLayers:
    """Makes layers of bitsandbytes.

    Raises
    ------
    BigModelError
        The package is missing.
    """

    config: BnbQuantizationConfig

    def __post_init__(self) -> None:
        self._nn: Any = bitsandbytes(self.config).nn

    def check(self, device: torch.device) -> None:
        """It finds out itself what it can on a device."""

    def empty(self, layer: nn.Linear) -> Any:
        """Return a layer in the place of another, without values."""
        sizes = layer.in_features, layer.out_features, layer.bias is not None
        if self.config.load_in_8bit:
            threshold = self.config.llm_int8_threshold
            new = self._nn.Linear8bitLt(
                *sizes, has_fp16_weights=False, threshold=threshold, device="meta"
            )
        else:
            new = self._nn.Linear4bit(
                *sizes, self.config.bnb_4bit_compute_dtype, **self._of_4_bits, device="meta"
            )
        return new.train(layer.training).requires_grad_(False)

    def fill(self, layer: Any, weight: torch.Tensor, device: torch.device) -> None:
        """Quantize a weight into a layer."""
        if self.config.load_in_8bit:
            new = self._nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        else:
            new = self._nn.Params4bit(weight, requires_grad=False, module=layer, **self._of_4_bits)
        layer.weight = new.to(device)

    # ---- weights that a file has quantized ----

    def statistics(self, name: str, held: Mapping[str, Any]) -> list[str]:
        """Return under which names a file has what belongs to a layer's quantized weight."""
        if self.config.load_in_8bit:
            return [f"{name}.SCB"] if f"{name}.SCB" in held else []
        kind = f"{name}.weight.quant_state.bitsandbytes__{self.config.bnb_4bit_quant_type}"
        if kind not in held:
            return []
        scales = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
        return [kind, *(n for s in scales if (n := f"{name}.weight.{s}") in held)]

    def restore(
        self,
        layer: Any,
        weight: torch.Tensor,
        statistics: Mapping[str, torch.Tensor],
        device: torch.device,
    ) -> None:
        """Put a weight into a layer that is quantized already."""
        if self.config.load_in_4bit:
            layer.weight = self._nn.Params4bit.from_prequantized(
                weight, dict(statistics), device=device, module=layer
            )
            return
        weight = weight.to(device)
        scales = next(iter(statistics.values())).to(device)
        layer.weight = self._nn.Int8Params(
            weight, requires_grad=False, has_fp16_weights=False, CB=weight, SCB=scales
        )

    @property
    def _of_4_bits(self) -> dict[str, Any]:
        return {
            "compress_statistics": self.config.bnb_4bit_use_double_quant,
            "quant_type": self.config.bnb_4bit_quant_type,
        }
