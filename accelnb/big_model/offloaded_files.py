"""Weights in files of their own: as raw bytes, which are mapped into memory to be read."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from accelnb.big_model.errors import BigModelError

INDEX = "index.json"

Index = dict[str, Any]


def offload_weight(
    weight: torch.Tensor,
    weight_name: str,
    offload_folder: str | os.PathLike[str],
    index: Index | None = None,
) -> Index | None:
    """Write a tensor to ``NAME.dat`` in a folder, and its type and shape into an index.

    A file that is there is replaced as a whole: tensors that map it keep what they see.

    Examples
    --------
    >>> import tempfile, torch
    >>> from accelnb.utils import load_offloaded_weight, offload_weight
    >>> folder = tempfile.mkdtemp()
    >>> index = offload_weight(torch.ones(2), "scale", folder, index={})
    >>> index
    {'scale': {'dtype': 'float32', 'shape': [2]}}
    >>> load_offloaded_weight(f"{folder}/scale.dat", index["scale"])
    tensor([1., 1.])
    """
    if weight.is_meta:
        raise BigModelError(f"{weight_name} is on the meta device: it has no values to be written")
    values = weight.detach().cpu().contiguous()
    file = Path(offload_folder, f"{weight_name}.dat")
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with new.open("wb") as written:
            written.write(values.reshape(-1).view(torch.uint8).numpy().data)
        os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)
    if index is not None:
        dtype = str(values.dtype).removeprefix("torch.")
        index[weight_name] = {"dtype": dtype, "shape": list(values.shape)}
    return index


def load_offloaded_weight(
    weight_file: str | os.PathLike[str], weight_info: Mapping[str, Any]
) -> torch.Tensor:
    """Return the tensor in a file of `offload_weight`, mapped: it is read where it is used.

    The file is not changed by what is done to the tensor.
    """
    shape = torch.Size(weight_info["shape"])
    dtype = getattr(torch, weight_info["dtype"])
    if not shape.numel():
        return torch.empty(shape, dtype=dtype)
    path = os.fspath(weight_file)
    return torch.from_file(path, shared=False, size=shape.numel(), dtype=dtype).view(shape)


def save_offload_index(index: Index | None, offload_folder: str | os.PathLike[str]) -> None:
    """Add entries to the index of a folder of offloaded weights."""
    if not index:
        return
    file = Path(offload_folder, INDEX)
    file.write_text(json.dumps(read_index(offload_folder) | index, indent=2), encoding="utf-8")


def read_index(offload_folder: str | os.PathLike[str]) -> Index:
    """Return the index of a folder of offloaded weights, empty if there is none."""
    file = Path(offload_folder, INDEX)
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def offload_state_dict(
    save_dir: str | os.PathLike[str], state_dict: Mapping[str, torch.Tensor]
) -> None:
    """Write the tensors of a state dict to files in a folder, with their index.

    Examples
    --------
    >>> import tempfile, torch
    >>> from accelnb.utils import OffloadedWeightsLoader, offload_state_dict
    >>> folder = tempfile.mkdtemp()
    >>> offload_state_dict(folder, {"scale": torch.ones(2)})
    >>> OffloadedWeightsLoader(save_folder=folder)["scale"]
    tensor([1., 1.])
    """
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    index: Index = {}
    for name, tensor in state_dict.items():
        offload_weight(tensor, name, save_dir, index=index)
    save_offload_index(index, save_dir)
