"""The tensors of a model put into their places one by one, those of linear layers quantized."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from accelnb.big_model.device_maps import place_of
from accelnb.big_model.offloaded_files import Index, offload_weight, save_offload_index
from accelnb.big_model.places import Place, as_device
from accelnb.big_model.placing import set_module_tensor_to_device
from accelnb.big_model.quantization.device_map import LeftOut, Places
from accelnb.big_model.quantization.fitting import Fitting
from accelnb.big_model.quantization.layers import Layers
from accelnb.training.parallel.slices import held, put


class Filling:
    """How a model gets its values.

    Parameters
    ----------
    offload_folder
        Where that is written which goes to disk.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers,
        left_out: LeftOut,
        places: Places,
        offload_folder: str | os.PathLike[str] | None,
    ) -> None:
        self._model = model
        self._layers = layers
        self._left_out = left_out
        self._places = places
        self._folder: Any = offload_folder
        self._dtype: Any = layers.config.torch_dtype
        self._index: Index = {}
        self._moved: dict[int, torch.Tensor] = {}  # tied tensors, by what they were before

    def run(self, fitting: Fitting) -> None:
        """Go through the model. No more than one layer's weights are in memory as they were."""
        for path in [path for path, _ in self._model.named_modules()]:
            if path in fitting.quantized:
                self._quantize(path, fitting)
                continue
            module = self._model.get_submodule(path)
            for key in (*module._parameters, *module._buffers):
                if (module._parameters | module._buffers)[key] is not None:
                    self._place(module, key, f"{path}.{key}" if path else key, fitting)
        save_offload_index(self._index, self._folder)

    def _quantize(self, path: str, fitting: Fitting) -> None:
        layer: Any = self._model.get_submodule(path)
        new = self._layers.empty(layer)
        place = place_of(self._places, path)
        statistics = {name: it.read() for name, it in fitting.statistics_of(path).items()}
        weight = self._read(f"{path}.weight", fitting)
        device = _device(place)
        if statistics:
            self._layers.restore(new, weight, statistics, device)
        else:
            self._layers.fill(new, weight.to(self._dtype), device)
        if layer.bias is not None:
            bias = self._read(f"{path}.bias", fitting)
            new.bias = nn.Parameter(bias.to(device, self._dtype, copy=True), requires_grad=False)
        for name in fitting.quantized[path]:
            self._model.set_submodule(name, new)
        if place == "disk":
            if (scales := getattr(new.weight, "SCB", None)) is not None:
                offload_weight(scales, f"{path}.SCB", self._folder, index=self._index)
            for key in [key for key, it in new._parameters.items() if it is not None]:
                self._to_disk(new, key, f"{path}.{key}")

    def _place(self, module: nn.Module, key: str, name: str, fitting: Fitting) -> None:
        old = held(module, key)
        if id(old) in self._moved:
            put(module, key, self._moved[id(old)])
            return
        place = place_of(self._places, name)
        value = fitting.value_of(name)
        tensor = old.detach() if value is None else value.read()
        dtype = tensor.dtype
        if value is not None and tensor.is_floating_point():
            dtype = self._left_out.dtype_of(name, self._dtype)
        new = tensor.to(_device(place), dtype, copy=True)  # what was read is but mapped
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
        put(module, key, new)
        if place == "disk":
            self._to_disk(module, key, name)
        if fitting.is_tied(name):
            self._moved[id(old)] = held(module, key)

    def _to_disk(self, module: nn.Module, key: str, name: str) -> None:
        offload_weight(held(module, key), name, self._folder, index=self._index)
        set_module_tensor_to_device(module, key, "meta")

    def _read(self, name: str, fitting: Fitting) -> torch.Tensor:
        value = fitting.value_of(name)
        assert value is not None, name  # it was checked
        return value.read()


def _device(place: Place) -> torch.device:
    return torch.device("cpu") if place == "disk" else as_device(place)
