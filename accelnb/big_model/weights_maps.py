"""Weights by their names, wherever they are: in memory, in files of their own, in safetensors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from accelnb.big_model.errors import BigModelError
from accelnb.big_model.offloaded_files import INDEX, load_offloaded_weight, read_index
from accelnb.big_model.places import Place, as_device
from accelnb.training.checkpoint.weights import opened


class OffloadedWeightsLoader(Mapping[str, torch.Tensor]):
    """Weights of which some are in memory and some in files, mapped when they are asked for.

    Parameters
    ----------
    state_dict
        Those in memory. They come before files of the same name.
    save_folder
        Where `offload_state_dict` has written the others.
    index
        What is known of each weight in files: ``dtype`` and ``shape`` of one in `save_folder`, or
        the ``safetensors_file`` that it is in, with its ``weight_name`` there and the ``dtype``
        that it shall have. By default what the folder's own index says.
    device
        Where weights of safetensors files are put. By default they stay mapped, on the CPU.

    Examples
    --------
    >>> import torch
    >>> from accelnb.utils import OffloadedWeightsLoader
    >>> weights = OffloadedWeightsLoader(state_dict={"scale": torch.ones(2)})
    >>> "scale" in weights, list(weights)
    (True, ['scale'])
    """

    def __init__(
        self,
        state_dict: Mapping[str, torch.Tensor] | None = None,
        save_folder: str | os.PathLike[str] | None = None,
        index: Mapping[str, Any] | None = None,
        device: Place | None = None,
    ) -> None:
        if state_dict is None and save_folder is None and index is None:
            raise BigModelError(
                "OffloadedWeightsLoader: give a state_dict, a save_folder or an index of weights"
            )
        if index is None and save_folder is not None:
            if not Path(save_folder, INDEX).is_file():
                raise BigModelError(f"{save_folder} holds no offloaded weights: it has no {INDEX}")
            index = read_index(save_folder)
        self.state_dict = {} if state_dict is None else state_dict
        self.save_folder = save_folder
        self.index = {} if index is None else index
        self.all_keys = list(dict.fromkeys([*self.state_dict, *self.index]))
        self.device = device
        self._files: dict[str, Any] = {}

    def __getitem__(self, key: str) -> torch.Tensor:
        if key in self.state_dict:
            return self.state_dict[key]
        entry = self.index[key]
        if entry.get("safetensors_file") is not None:
            return self._of_safetensors(entry, key)
        if self.save_folder is None:
            raise BigModelError(f"{key} is in the index, but no save_folder says where its file is")
        return load_offloaded_weight(Path(self.save_folder, f"{key}.dat"), entry)

    def _of_safetensors(self, entry: Mapping[str, Any], key: str) -> torch.Tensor:
        path = os.fspath(entry["safetensors_file"])
        if path not in self._files:  # stays open: each opening reads the file's whole table
            self._files[path] = opened(Path(path))
        tensor = self._files[path].get_tensor(entry.get("weight_name", key))
        dtype = getattr(torch, entry["dtype"]) if "dtype" in entry else tensor.dtype
        device = torch.device("cpu") if self.device is None else as_device(self.device)
        return tensor.to(dtype).to(device)

    def __contains__(self, key: object) -> bool:
        return key in self.state_dict or key in self.index  # reads none

    def __iter__(self) -> Iterator[str]:
        return iter(self.all_keys)

    def __len__(self) -> int:
        return len(self.all_keys)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}  # open files cannot be copied


class PrefixedDataset(Mapping[str, Any]):
    """A part of another mapping: of the keys that begin with a prefix, which is left out.

    Examples
    --------
    >>> from accelnb.utils import PrefixedDataset
    >>> layer = PrefixedDataset({"layer.weight": 1, "head.weight": 2}, "layer.")
    >>> dict(layer)
    {'weight': 1}
    """

    def __init__(self, dataset: Mapping[str, Any], prefix: str) -> None:
        self.dataset = dataset
        self.prefix = prefix

    def __getitem__(self, key: str) -> Any:
        return self.dataset[f"{self.prefix}{key}"]

    def __contains__(self, key: object) -> bool:
        return f"{self.prefix}{key}" in self.dataset

    def __iter__(self) -> Iterator[str]:
        start = len(self.prefix)
        return (key[start:] for key in self.dataset if key.startswith(self.prefix))

    def __len__(self) -> int:
        return sum(key.startswith(self.prefix) for key in self.dataset)


def extract_submodules_state_dict(
    state_dict: Mapping[str, torch.Tensor], submodule_names: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Return the part of a state dict that is of some modules, with the names that it has there.

    Examples
    --------
    >>> from accelnb.utils import extract_submodules_state_dict
    >>> extract_submodules_state_dict({"a.1.weight": 1, "a.10.weight": 2}, ["a.1"])
    {'a.1.weight': 1}
    """
    return {
        key: tensor
        for name in submodule_names
        for key, tensor in state_dict.items()
        if key == name or key.startswith(f"{name}.")
    }
