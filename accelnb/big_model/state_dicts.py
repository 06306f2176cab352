"""Files read as state dicts, and offloaded weights brought back into a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accelnb.big_model.device_maps import place_of
from accelnb.big_model.errors import BigModelError
from accelnb.big_model.offloaded_files import load_offloaded_weight
from accelnb.big_model.parameters import scales_name
from accelnb.big_model.places import Place, as_device
from accelnb.big_model.placing import set_module_tensor_to_device
from accelnb.training.checkpoint.reading_weights import weights_in
from accelnb.training.checkpoint.weights import opened


def load_state_dict(
    checkpoint_file: str | os.PathLike[str], device_map: Mapping[str, Place] | None = None
) -> dict[str, torch.Tensor]:
    """Return the weights in a file, each on the device that a device map says.

    What is on the CPU or belongs on the disk is mapped: it is read where it is used.

    Raises
    ------
    AccelnbError
        The file is damaged, or holds weights of another framework.

    Examples
    --------
    >>> import os, tempfile, torch
    >>> from safetensors.torch import save_file
    >>> from accelnb.utils import load_state_dict
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> save_file({"scale": torch.ones(2)}, path)
    >>> load_state_dict(path, {"": "cpu"})
    {'scale': tensor([1., 1.])}
    """
    path = Path(checkpoint_file)
    if path.suffix == ".safetensors":
        _refuse_other_frameworks(path)
    state = weights_in(path)
    return {name: value.to(_device_of(name, device_map or {})) for name, value in state.items()}


def _refuse_other_frameworks(path: Path) -> None:
    with opened(path) as file:
        kind = (file.metadata() or {}).get("format", "pt")
    if kind != "pt":
        raise BigModelError(f"{path} holds weights of {kind}, not of PyTorch")


def _device_of(name: str, device_map: Mapping[str, Place]) -> torch.device:
    try:
        place = place_of(device_map, name)
    except BigModelError:
        place = "disk"
    return torch.device("cpu") if place == "disk" else as_device(place)


def load_offloaded_weights(
    model: nn.Module, index: Mapping[str, Any] | None, offload_folder: str | os.PathLike[str]
) -> None:
    """Put weights that `offload_weight` wrote back into a model, on the CPU.

    Parameters
    ----------
    index
        What `offload_weight` said of them. The folder may be removed afterwards.

    Examples
    --------
    >>> import tempfile, torch
    >>> from accelnb.utils import load_offloaded_weights, offload_weight
    >>> folder, layer = tempfile.mkdtemp(), torch.nn.Linear(2, 1, bias=False, device="meta")
    >>> index = offload_weight(torch.ones(1, 2), "weight", folder, {})
    >>> load_offloaded_weights(layer, index, folder)
    >>> layer.weight.tolist()
    [[1.0, 1.0]]
    """
    entries = dict(index or {})
    scales = {scales_name(name) for name in entries if scales_name(name) != name}
    for name in entries.keys() - scales:
        its = scales_name(name)
        set_module_tensor_to_device(
            model,
            name,
            "cpu",
            _read(name, entries, offload_folder),
            fp16_statistics=_read(its, entries, offload_folder) if its in scales else None,
        )


def _read(
    name: str, entries: Mapping[str, Any], folder: str | os.PathLike[str]
) -> torch.Tensor | None:
    if name not in entries:
        return None
    return load_offloaded_weight(Path(folder, f"{name}.dat"), entries[name]).clone()
