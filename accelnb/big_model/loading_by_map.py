"""Weights read from files, each put where a device map says."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accelnb.big_model.device_maps import check_tied_parameters_on_same_device, place_of
from accelnb.big_model.dtypes import as_dtype, is_converted
from accelnb.big_model.errors import BigModelError
from accelnb.big_model.module_tensors import owner_of
from accelnb.big_model.offloaded_files import Index, offload_weight, save_offload_index
from accelnb.big_model.parameters import OF_BITSANDBYTES, is_of_bitsandbytes, scales_name
from accelnb.big_model.places import Place, accelerator, as_device, is_same_device
from accelnb.big_model.placing import set_module_tensor_to_device
from accelnb.big_model.tied import retie_parameters
from accelnb.training.checkpoint.parts import tensors_in
from accelnb.training.checkpoint.reading_weights import fitting_files
from accelnb.training.checkpoint.weights import find_tied_parameters, shapes_in
from accelnb.training.memory import clear_device_cache

DISK = "disk"


class LoadingByMap:
    """A model being filled from files, each part on its device.

    Parameters
    ----------
    model
        What is filled.
    device_map, offload_folder, dtype, offload_buffers, keep_in_fp32_modules, offload_8bit_bnb
        Of `load_checkpoint_in_model`.
    """

    def __init__(
        self,
        model: nn.Module,
        device_map: Mapping[str, Place],
        offload_folder: str | os.PathLike[str] | None,
        dtype: str | torch.dtype | None,
        offload_buffers: bool,
        keep_in_fp32_modules: Sequence[str],
        offload_8bit_bnb: bool,
    ) -> None:
        self._model = model
        self._map = device_map
        self._folder = offload_folder
        self._dtype: Any = None if dtype is None else as_dtype(dtype)
        self._in_fp32 = keep_in_fp32_modules
        self._quantizes = offload_8bit_bnb
        self._groups = _groups(model)
        self._stay = set() if offload_buffers else _buffers(model)
        self._index: Index = {}
        self._filled: set[str] = set()

    def load(self, checkpoint: str | os.PathLike[str], strict: bool) -> None:
        """Check everything, and then fill the model."""
        places, files = self._checked(checkpoint, strict)
        for file in files:
            with tensors_in(file) as saved:
                for name in saved:
                    if name in places and name not in self._filled:
                        self._take(name, saved, file, places)
        for name, place in places.items():
            if place == DISK and name not in self._filled:
                self._keep_on_disk(name)
        if self._folder is not None:
            save_offload_index(self._index, self._folder)
        retie_parameters(self._model, list(self._groups.values()))
        clear_device_cache()

    def _checked(
        self, checkpoint: str | os.PathLike[str], strict: bool
    ) -> tuple[dict[str, Place], list[Path]]:
        """Return the places of all tensors and the files, after a look at everything."""
        if DISK in self._map.values() and self._folder is None:
            raise BigModelError(
                "the device map puts parts on the disk: give the offload_folder for them"
            )
        check_tied_parameters_on_same_device(list(self._groups.values()), self._map)
        state = self._model.state_dict(keep_vars=True)
        tensors = [name for name, value in state.items() if isinstance(value, torch.Tensor)]
        places = {name: place_of(self._map, name) for name in tensors}
        for place in set(places.values()) - {DISK}:
            as_device(place)
        files = fitting_files(self._model, checkpoint, strict, beside=OF_BITSANDBYTES).files
        if self._folder is not None:
            Path(self._folder).mkdir(parents=True, exist_ok=True)
        return places, files

    def _take(
        self, name: str, saved: Mapping[str, Any], file: Path, places: Mapping[str, Place]
    ) -> None:
        """Put one weight of a file where it belongs, or where the first of those tied to it does.

        What is tied to it is tied again in the end.
        """
        value, scales = saved[name][...], _scales(saved, name)
        group = self._groups.get(name, [name])
        in_memory = [its for its in group if places[its] != DISK]
        if in_memory:
            self._put(in_memory[0], places[in_memory[0]], value, scales)
        elif name in self._stay:
            self._put(name, _where_it_is(self._tensor(name)), value, scales)
        else:
            for its in group:
                self._put_on_disk(its, value, scales, file, name)
        self._filled |= {*group}

    def _put(
        self, name: str, place: Place, value: torch.Tensor, scales: torch.Tensor | None
    ) -> None:
        old, wanted = self._tensor(name), self._dtype_of(name, value)
        target = as_device(place)
        if _is_plain(old) and is_same_device(old.device, target) and old.dtype == wanted:
            old.detach().copy_(value)  # it stays the object that it is
            return
        if target.type == "cpu" and value.dtype == wanted:
            value = value.clone()  # a file that is mapped may be written anew
        self._set(name, place, value, wanted, scales)

    def _put_on_disk(
        self, name: str, value: torch.Tensor, scales: Any, file: Path, saved_name: str
    ) -> None:
        assert self._folder is not None
        wanted = self._dtype_of(name, value)
        if self._quantizes and is_of_bitsandbytes(self._tensor(name)):
            self._set(name, _where_it_computes(), value, wanted, scales)
            self._offload_quantized(name)
        elif file.suffix == ".safetensors" and value.dtype == wanted:
            self._index[name] = entry_of(file, saved_name)
        else:
            offload_weight(value.to(wanted), name, self._folder, self._index)
        self._set(name, "meta", None, wanted)

    def _offload_quantized(self, name: str) -> None:
        assert self._folder is not None
        quantized: Any = self._tensor(name)
        offload_weight(quantized.data, name, self._folder, self._index)
        if (scales := getattr(quantized, "SCB", None)) is not None:
            offload_weight(scales, scales_name(name), self._folder, self._index)

    def _keep_on_disk(self, name: str) -> None:
        """Offload what no file has, with the values that it has in the model."""
        tensor = self._tensor(name)
        if name in self._stay or tensor.is_meta:
            return
        assert self._folder is not None
        wanted = self._dtype_of(name, tensor)
        offload_weight(tensor.detach().to(wanted), name, self._folder, self._index)
        self._set(name, "meta", None, wanted)

    def _set(
        self,
        name: str,
        place: Place,
        value: torch.Tensor | None,
        dtype: torch.dtype,
        scales: torch.Tensor | None = None,
    ) -> None:
        set_module_tensor_to_device(
            self._model, name, place, value, dtype, fp16_statistics=scales, clear_cache=False
        )

    def _tensor(self, name: str) -> torch.Tensor:
        owner, key = owner_of(self._model, name)
        return getattr(owner, key)

    def _dtype_of(self, name: str, value: torch.Tensor) -> torch.dtype:
        """Return the type that a weight will have."""
        if self._dtype is None:
            return self._tensor(name).dtype
        if not is_converted(value.dtype):
            return value.dtype
        kept = any(f".{module}." in f".{name}." for module in self._in_fp32)
        return torch.float32 if kept else self._dtype


def entry_of(file: Path, name: str) -> dict[str, str]:
    """Return what an index says of a weight that stays in a safetensors file."""
    _, merged = shapes_in(file)
    return {"safetensors_file": str(file.resolve()), "weight_name": merged.get(name, name)}


def _groups(model: nn.Module) -> dict[str, list[str]]:
    """Return the names that are one and the same parameter, by each of them."""
    return {name: group for group in find_tied_parameters(model) for name in group}


def _buffers(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_buffers(remove_duplicate=False)}


def _scales(saved: Mapping[str, Any], name: str) -> torch.Tensor | None:
    its = scales_name(name)
    return saved[its][...] if its != name and its in saved else None


def _is_plain(tensor: torch.Tensor) -> bool:
    return type(tensor) in (torch.Tensor, nn.Parameter) and not tensor.is_meta


def _where_it_is(buffer: torch.Tensor) -> torch.device:
    return torch.device("cpu") if buffer.is_meta else buffer.device


def _where_it_computes() -> Place:
    return "cpu" if accelerator() is None else 0
