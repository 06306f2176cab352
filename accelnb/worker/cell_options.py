"""Options of a cell that its own code reads: in the environment, and as the name `mesh`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from accelnb.options import environment


class CellOptions:
    """Gives each cell what its options say.

    Parameters
    ----------
    namespace
        The rank's variables.
    device
        The type of device that a mesh is of.
    """

    def __init__(self, namespace: dict[str, Any], device: str) -> None:
        self._namespace = namespace
        self._device = device
        self._group: Any = None
        self._meshes: dict[Any, DeviceMesh] = {}  # made on that group

    def apply(self, settings: dict[str, Any]) -> None:
        """Set what the cell's code will read. All ranks of a mesh must call this."""
        for name, variable in environment.BY_OPTION.items():
            os.environ[variable] = str(settings[name])
        dimensions = settings["mesh"]
        if dimensions is None:  # only some ranks run this cell: what they have stays
            return
        if dimensions:
            self._namespace["mesh"] = self._mesh_of(dimensions)
        elif any(self._namespace.get("mesh") is mesh for mesh in self._meshes.values()):
            del self._namespace["mesh"]

    def _mesh_of(self, dimensions: Sequence[Sequence[Any]]) -> DeviceMesh:
        names, sizes = zip(*dimensions, strict=True)
        if self._group is not dist.group.WORLD:  # after an interrupt, say
            self._group = dist.group.WORLD
            self._meshes.clear()
        if (names, sizes) not in self._meshes:
            mesh = init_device_mesh(self._device, sizes, mesh_dim_names=names)
            self._meshes[names, sizes] = mesh
        return self._meshes[names, sizes]
