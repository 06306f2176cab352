"""Where a checkpoint has the weights of each model: a file, or parts in a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accelnb.training.checkpoint import file_names
from accelnb.training.checkpoint.dtensors import Tensors, fitted, part_of, room_for
from accelnb.training.checkpoint.files import in_place, load_weights
from accelnb.training.checkpoint.weights import (
    merged_names,
    opened,
    read_safetensors,
    shapes_in,
    shapes_of,
    without_ddp_prefix,
)
from accelnb.training.dtensors import is_dtensor


@dataclass
class Source:
    """The weights of one model.

    Attributes
    ----------
    path : Path
        The file, or the folder of parts.
    key : str or None
        What the names in a folder of parts begin with; None of a file.
    own_names : dict
        What weights are called in the model, by other names that they have there.
    """

    path: Path
    key: str | None = None
    own_names: dict[str, str] = field(default_factory=dict)

    def shapes_for(self, model: nn.Module) -> dict[str, Any]:
        """Return the shapes of the weights by the names that they have in the model."""
        return {name: shape for name, (_, shape) in self._found(model).items()}

    def read_for(self, model: nn.Module, location: torch.device | str) -> dict[str, Any]:
        """Return a state dict for the model, with this rank's parts where it is sharded."""
        own = model.state_dict(keep_vars=True)
        found = self._found(model)
        if self.key is not None:
            return self._read_parts(own, found)
        if not any(map(is_dtensor, own.values())):
            whole = _whole(self.path, location)
            return {name: whole[saved] for name, (saved, _) in found.items()}
        if self.path.suffix == ".safetensors":
            _, merged = shapes_in(self.path)
            with opened(self.path) as file:
                slices = {n: file.get_slice(merged.get(s, s)) for n, (s, _) in found.items()}
                return {n: _part(slices[n], own[n]) for n in slices if n in own}
        whole = load_weights(self.path, **in_place(self.path))
        return {n: fitted(whole[saved], own.get(n)) for n, (saved, _) in found.items()}

    def _found(self, model: nn.Module) -> dict[str, tuple[str, Any]]:
        """Return each weight's name there and its shape, by its name in the model."""
        return {self.own_names.get(k, k): found for k, found in self._held(model).items()}

    def _held(self, model: nn.Module) -> dict[str, tuple[str, Any]]:
        if self.key is not None:
            from accelnb.training.checkpoint import sharded  # slow to import

            start = f"{self.key}."
            held = sharded.tensors_in(sharded.described(self.path))
            return {
                name.removeprefix(start): (name, tuple(entry.size))
                for name, entry in held.items()
                if name.startswith(start)
            }
        if self.path.suffix == ".safetensors":
            own_shapes, merged = shapes_in(self.path)
            shapes = own_shapes | {name: own_shapes[kept] for name, kept in merged.items()}
        else:
            shapes = shapes_of(load_weights(self.path, **in_place(self.path)))
        return without_ddp_prefix({name: (name, shape) for name, shape in shapes.items()}, model)

    def _read_parts(self, own: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
        from accelnb.training.checkpoint import sharded  # slow to import

        kept = merged_names(own)
        rooms: Tensors = {}
        for name, value in own.items():
            if name in found and name not in kept and isinstance(value, torch.Tensor):
                rooms[name] = room_for(torch.Size(found[name][1]), value.dtype, value)
        sharded.read_into(self.path, {found[name][0]: room for name, room in rooms.items()})
        return rooms | {name: rooms[first] for name, first in kept.items() if first in rooms}


def sources_in(folder: Path) -> list[Source]:
    """Return where the weights of each model are, in the order of the models."""
    parts = _keys_in(folder / file_names.SHARDED)
    sources: list[Source] = []
    while True:
        index = len(sources)
        key = file_names.key(file_names.MODEL, index)
        if key in parts:
            sources.append(Source(folder / file_names.SHARDED, key))
            continue
        if (accelerates := file_names.model_folder(folder, index)).is_dir():
            sources.append(Source(accelerates, "model"))
            continue
        for name in (file_names.MODEL, file_names.MODEL_PICKLED):
            path = folder / file_names.numbered(name, index)
            if path.exists():
                sources.append(Source(path))
                break
        else:
            return sources


def _keys_in(folder: Path) -> set[str]:
    """Return the names of the objects whose parts a folder holds."""
    if not folder.is_dir():
        return set()
    from accelnb.training.checkpoint import sharded  # slow to import

    paths = sharded.described(folder).planner_data or {}
    return {str(path[0]) for path in paths.values() if path}


def _whole(path: Path, location: torch.device | str) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return read_safetensors(path, location)
    return load_weights(path, map_location=location)


def _part(slices: Any, like: Any) -> torch.Tensor:
    return part_of(slices, like) if is_dtensor(like) else slices[...]
