"""Which package quantizes, as a configuration says."""

from __future__ import annotations

from typing import Any

from accelnb.big_model.errors import BigModelError
from accelnb.big_model.quantization.bnb_config import BnbQuantizationConfig
from accelnb.big_model.quantization.bnb_layers import BnbLayers
from accelnb.big_model.quantization.torchao_config import TorchaoQuantizationConfig
from accelnb.big_model.quantization.torchao_layers import TorchaoLayers

Config = BnbQuantizationConfig | TorchaoQuantizationConfig
Layers = BnbLayers | TorchaoLayers


def layers_for(config: Any) -> Layers:
    """Return what makes quantized layers.

    Raises
    ------
    BigModelError
        The package is missing, or `config` is no configuration of either.
    """
    if isinstance(config, BnbQuantizationConfig):
        return BnbLayers(config)
    if isinstance(config, TorchaoQuantizationConfig):
        return TorchaoLayers(config)
    raise BigModelError(
        f"{type(config).__name__} says nothing of quantization: give a BnbQuantizationConfig or a "
        "TorchaoQuantizationConfig"
    )
