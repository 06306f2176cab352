"""Options of a cell that its own code reads: in the environment, and as the name `mesh`."""

from __future__ import annotations

import os
from typing import Any

from accelnb.training.device_mesh import device_mesh


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
        self._given: list[Any] = []  # the meshes that cells got

    def apply(self, settings: dict[str, Any]) -> None:
        """Set what the cell's code will read. All ranks of a mesh must call this."""
        os.environ.update(settings["environment"])
        dimensions = settings["mesh"]
        if dimensions is None:  # only some ranks run this cell: what they have stays
            return
        if dimensions:
            names, sizes = zip(*dimensions, strict=True)
            mesh = self._namespace["mesh"] = device_mesh(self._device, names, sizes)
            if all(mesh is not given for given in self._given):
                self._given.append(mesh)
        elif any(self._namespace.get("mesh") is given for given in self._given):
            del self._namespace["mesh"]
