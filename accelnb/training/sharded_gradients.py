"""Gradients that are DTensors, or plain beside such: what each process holds of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from accelnb.training.dtensors import is_dtensor

# Process groups over which a parameter is divided, outermost first, by torch's names for them.
Groups = tuple[str, ...]


def group_named(name: str) -> Any:
    """Return the process group of now that has this name."""
    from torch.distributed.distributed_c10d import _resolve_process_group

    return _resolve_process_group(name)  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def held_gradient(parameter: torch.Tensor) -> torch.Tensor | None:
    """Return what this process holds of a gradient, divided as its parameter is; None without one.

    A gradient that is a sum of which each process has a part, as those of normalizations in
    sequence parallelism, is added up first, and stays so.
    """
    gradient: Any = parameter.grad
    if gradient is None or not is_dtensor(parameter):
        return gradient
    placements = _placements(parameter)
    if gradient.placements != placements:
        gradient = parameter.grad = gradient.redistribute(placements=placements)
    return gradient.to_local()


def groups_around(parameters: Iterable[torch.Tensor]) -> list[str]:
    """Return the names of the process groups of all meshes that parameters lie on."""
    meshes = dict.fromkeys(_mesh(one) for one in parameters if is_dtensor(one))
    return list(
        dict.fromkeys(
            mesh.get_group(dimension).group_name
            for mesh in meshes
            for dimension in range(mesh.ndim)
            if mesh.size(dimension) > 1
        )
    )


def _mesh(dtensor: Any) -> Any:
    return dtensor.device_mesh


def _placements(dtensor: Any) -> Any:
    return dtensor.placements


def groups_dividing(parameter: torch.Tensor) -> Groups:
    """Return the process groups over which a parameter is divided; none for a plain one."""
    if not is_dtensor(parameter):
        return ()
    mesh = _mesh(parameter)
    return tuple(
        mesh.get_group(dimension).group_name
        for dimension, placement in enumerate(_placements(parameter))
        if not placement.is_replicate() and mesh.size(dimension) > 1
    )
