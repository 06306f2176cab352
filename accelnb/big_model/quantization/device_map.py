"""Where the parts of a quantized model compute, and which of them are not quantized for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from accelnb.big_model.auto_device_map import infer_auto_device_map
from accelnb.big_model.device_maps import check_device_map
from accelnb.big_model.errors import BigModelError
from accelnb.big_model.max_memory import get_balanced_memory
from accelnb.big_model.places import Place, as_device
from accelnb.big_model.quantization.layers import Config
from accelnb.big_model.quantization.left_out import get_keys_to_not_convert, is_left_out
from accelnb.training.state import PartialState

AUTOMATIC = ("auto", "balanced", "balanced_low_0", "sequential")

Places = Mapping[str, Place]


@dataclass(frozen=True)
class LeftOut:
    """Names of modules that are not quantized.

    Attributes
    ----------
    skipped : tuple
        They become of the configuration's dtype.
    in_fp32 : tuple
        They stay in fp32.
    """

    skipped: tuple[str, ...]
    in_fp32: tuple[str, ...]

    @classmethod
    def of(cls, model: nn.Module, config: Config) -> LeftOut:
        """Return what a configuration leaves out, or what it is better for the model to."""
        skipped = config.skip_modules
        if skipped is None:
            skipped = get_keys_to_not_convert(model)
        return cls(tuple(skipped), tuple(config.keep_in_fp32_modules or ()))

    def and_offloaded(self, device_map: Any, quantizes_offloaded: bool) -> LeftOut:
        """Return it with what a map of the user's puts where it cannot be quantized."""
        if quantizes_offloaded or not isinstance(device_map, Mapping) or len(device_map) < 2:
            return self
        return replace(self, skipped=(*self.skipped, *offloaded(device_map)))

    @property
    def names(self) -> tuple[str, ...]:
        return self.skipped + self.in_fp32

    def dtype_of(self, name: str, dtype: torch.dtype) -> torch.dtype:
        """Return what a tensor that is not quantized becomes."""
        return torch.float32 if any(key in name for key in self.in_fp32) else dtype


def main_device(places: Places) -> torch.device:
    """Return where a model computes: the first accelerator that a map names, or the CPU."""
    found = (as_device(place) for place in places.values() if place not in ("cpu", "disk"))
    return next((device for device in found if device.type != "cpu"), torch.device("cpu"))


def offloaded(places: Places) -> list[str]:
    """Return the names of the modules that lie elsewhere than they compute."""
    on_cpu = main_device(places).type == "cpu"
    return [
        name
        for name, place in places.items()
        if place == "disk" or (not on_cpu and str(place) == "cpu")
    ]


def quantizes_offloaded(config: Config) -> bool:
    """Return whether a layer can be quantized that is brought to where it computes each time."""
    return getattr(config, "load_in_8bit", False)


def get_quantized_model_device_map(
    model: nn.Module,
    bnb_quantization_config: Config,
    device_map: Places | str | None = None,
    max_memory: Mapping[Any, Any] | None = None,
    no_split_module_classes: list[str] | None = None,
) -> dict[str, Place]:
    """Return where each module of a model goes whose linear layers will be quantized.

    Parameters
    ----------
    device_map
        A map, which is checked; ``auto``, ``balanced``, ``balanced_low_0`` or ``sequential``, to
        have one made; or None for this process's device.

    Raises
    ------
    BigModelError
        It puts a layer on the CPU or disk that has to be quantized where it computes.
    """
    left_out = LeftOut.of(model, bnb_quantization_config)
    return device_map_for(
        model, bnb_quantization_config, left_out, device_map, max_memory, no_split_module_classes
    )


def device_map_for(
    model: nn.Module,
    config: Config,
    left_out: LeftOut,
    device_map: Places | str | None,
    max_memory: Mapping[Any, Any] | None,
    no_split_module_classes: list[str] | None,
) -> dict[str, Place]:
    """Do what `get_quantized_model_device_map` does, with other modules left out."""
    if device_map is None:
        return {"": PartialState().device}
    if isinstance(device_map, str):
        device_map = _made(model, config, left_out, device_map, max_memory, no_split_module_classes)
    check_device_map(model, device_map)
    if not quantizes_offloaded(config):
        _refuse_offloaded(model, left_out, device_map)
    return dict(device_map)


def _refuse_offloaded(model: nn.Module, left_out: LeftOut, places: Places) -> None:
    wrong = [name for name in offloaded(places) if not is_left_out(name, left_out.names)]
    if wrong:
        raise BigModelError(
            f"device_map: {wrong[0] or type(model).__name__} would be on {places[wrong[0]]}, and "
            "only layers of 8 bits (bitsandbytes) can be brought from there: give it more "
            "max_memory, or a map of your own, whose modules on cpu and disk are not quantized"
        )


def _made(
    model: nn.Module,
    config: Config,
    left_out: LeftOut,
    how: str,
    max_memory: Mapping[Any, Any] | None,
    no_split_module_classes: list[str] | None,
) -> dict[str, Place]:
    if how not in AUTOMATIC:
        raise BigModelError(f"device_map={how!r}: choose one of {', '.join(AUTOMATIC)}")
    dtype: Any = config.torch_dtype
    sizes: dict[str, Any] = {
        "no_split_module_classes": no_split_module_classes,
        "dtype": config.target_dtype,
        "special_dtypes": {
            name: left_out.dtype_of(name, dtype)
            for name, _ in model.named_parameters()
            if any(key in name for key in left_out.names)
        },
    }
    if how != "sequential":
        low_zero = how == "balanced_low_0"
        max_memory = get_balanced_memory(model, max_memory=max_memory, low_zero=low_zero, **sizes)
    return infer_auto_device_map(model, max_memory=max_memory, **sizes)
