"""A model quantized layer by layer, with its values read straight to where they belong."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from accelnb.big_model.dispatch import dispatch_model
from accelnb.big_model.errors import BigModelError
from accelnb.big_model.quantization.bnb_layers import nothing_to_quantize
from accelnb.big_model.quantization.device_map import (
    LeftOut,
    device_map_for,
    main_device,
    quantizes_offloaded,
)
from accelnb.big_model.quantization.filling import Filling
from accelnb.big_model.quantization.fitting import Fitting
from accelnb.big_model.quantization.layers import Config, layers_for
from accelnb.big_model.quantization.sources import values_in, values_of
from accelnb.training.parallel.meta_start.without_values import some


def load_and_quantize_model(
    model: nn.Module,
    bnb_quantization_config: Config,
    weights_location: str | os.PathLike[str] | None = None,
    device_map: Mapping[str, int | str | torch.device] | str | None = None,
    no_split_module_classes: list[str] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
    offload_state_dict: bool = False,
) -> nn.Module:
    """Quantize the linear layers of a model, and put it where it computes; return it.

    The model is changed. Beside what becomes of it, one layer's weights are in memory at a time.

    Parameters
    ----------
    model
        Without values (see `init_empty_weights`) if `weights_location` has them.
    bnb_quantization_config
        A `BnbQuantizationConfig` or a `TorchaoQuantizationConfig`.
    weights_location
        A file of weights, an index (``model.safetensors.index.json``), or a folder that holds
        one. What bitsandbytes had quantized when it was saved is taken as it is.
    device_map
        Where its modules compute, or ``auto``, ``balanced``, ``balanced_low_0`` or
        ``sequential``. By default all of it is on this process's device.
    no_split_module_classes
        Names of classes whose modules stay whole on one device.
    max_memory
        How much each device takes, for a map that is made here.
    offload_folder
        Where parts on ``disk`` are written to.
    offload_state_dict
        Is of no use here: weights on their way never wait in memory.

    Raises
    ------
    BigModelError
        It cannot be done; the model is as it was.

    Examples
    --------
    >>> import torch
    >>> from accelnb.utils import TorchaoQuantizationConfig, load_and_quantize_model
    >>> model = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.Linear(32, 2))
    >>> config = TorchaoQuantizationConfig("int8", torch_dtype="fp32")
    >>> model = load_and_quantize_model(model, config)
    >>> type(model[0].weight).__name__, type(model[1].weight).__name__
    ('Int8Tensor', 'Parameter')
    """
    config = bnb_quantization_config
    layers = layers_for(config)
    if weights_location is None and any(it.is_meta for it in model.parameters()):
        raise BigModelError(
            f"weights_location=None: this {type(model).__name__} has no values (meta device): give "
            "the file or folder of its weights"
        )
    left_out = LeftOut.of(model, config).and_offloaded(device_map, quantizes_offloaded(config))
    places = device_map_for(
        model, config, left_out, device_map, max_memory, no_split_module_classes
    )
    if "disk" in places.values() and offload_folder is None:
        raise BigModelError(
            "offload_folder=None: the device map puts modules on disk, so give a folder for them"
        )
    layers.check(main_device(places))
    from_model = nullcontext(values_of(model))
    with from_model if weights_location is None else values_in(weights_location) as values:
        fitting = Fitting(model, layers, left_out.names, values)
        fitting.check()
        _warn(model, fitting, weights_location)
        Filling(model, layers, left_out, places, offload_folder).run(fitting)
    for name in ("load_in_8bit", "load_in_4bit"):  # peft asks for it
        setattr(model, f"is_{name.replace('load', 'loaded')}", getattr(config, name, False))
    return dispatch_model(model, places, offload_dir=offload_folder)


def _warn(model: nn.Module, fitting: Fitting, weights_location: Any) -> None:
    if not fitting.quantized:
        warnings.warn(nothing_to_quantize(model), stacklevel=3)
    if unused := fitting.unused():
        warnings.warn(f"{weights_location}: not in the model: {some(unused)}", stacklevel=3)
