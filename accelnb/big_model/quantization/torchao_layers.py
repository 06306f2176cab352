"""Linear layers whose weights are tensors of torchao in few bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from accelnb.big_model.errors import BigModelError
from accelnb.big_model.quantization.torchao_config import TorchaoQuantizationConfig
from accelnb.training.available import is_torchao_available


@dataclass
class TorchaoLayers:
    """Gives layers weights of torchao.

    Raises
    ------
    BigModelError
        The package is missing.
    """

    config: TorchaoQuantizationConfig

    def __post_init__(self) -> None:
        if not is_torchao_available():
            raise BigModelError(
                f"weights={self.config.weights}: the package torchao is missing; "
                "pip install 'accelnb[fp8]'"
            )

    def check(self, device: torch.device) -> None:
        """Quantize a layer on a device and compute with it.

        Raises
        ------
        BigModelError
            It fails: for lack of another package, or of what the device would have to do.
        """
        trial = nn.Linear(256, 256, device=device, dtype=self._dtype).requires_grad_(False)
        try:
            self.fill(trial, trial.weight.detach(), device)
            trial(torch.ones(1, 256, device=device, dtype=self._dtype))
        except Exception as error:  # each kind refuses in its own way
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise BigModelError(
                f"weights={self.config.weights}: torchao cannot on {device}, with "
                f"{self._dtype}: {said[0]}"
            ) from error

    def empty(self, layer: nn.Linear) -> nn.Linear:
        """Return a layer in the place of another, without values."""
        has_bias = layer.bias is not None
        new = nn.Linear(layer.in_features, layer.out_features, has_bias, device="meta")
        return new.train(layer.training).requires_grad_(False)

    def fill(self, layer: nn.Linear, weight: torch.Tensor, device: torch.device) -> None:
        """Quantize a weight into a layer.

        Raises
        ------
        BigModelError
            Its shape does not fit the kind.
        """
        from torchao.quantization import quantize_  # pyright: ignore[reportMissingImports]

        alone = nn.Linear(*reversed(weight.shape), bias=False, device="meta")
        alone.weight = nn.Parameter(weight.to(device), requires_grad=False)
        quantize_(alone, self._kind_on(device))
        if type(alone.weight.data) is torch.Tensor:  # it leaves what does not fit, and logs that
            raise BigModelError(
                f"weights={self.config.weights}: does not fit a layer with {weight.shape[1]} "
                f"inputs and {weight.shape[0]} outputs: name it in skip_modules"
            )
        layer.weight = alone.weight

    def statistics(self, name: str, held: Mapping[str, Any]) -> list[str]:
        """Return no names: what is quantized so is one tensor, which no file of weights holds."""
        return []

    def restore(self, *_: Any) -> None:
        """Is not called: there is nothing to restore from."""
        raise AssertionError("there are no statistics")

    @property
    def _dtype(self) -> torch.dtype:
        assert isinstance(self.config.torch_dtype, torch.dtype)
        return self.config.torch_dtype

    def _kind_on(self, device: torch.device) -> Any:
        import torchao.quantization as kinds  # pyright: ignore[reportMissingImports]

        kind = self.config.weights
        if not isinstance(kind, str):
            return kind
        if kind == "int8":
            return kinds.Int8WeightOnlyConfig()
        if kind == "fp8":
            return kinds.Float8WeightOnlyConfig()
        # The default packing needs a package of its own; these are of torch.
        packing: Any = "tile_packed_to_4d" if device.type == "cuda" else "plain_int32"
        return kinds.Int4WeightOnlyConfig(int4_packing_format=packing)
