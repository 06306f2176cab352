"""The meshes of torch: made in one place, so that they can be made again on a new process group."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

# The meshes of torch on the process group of now, in the order in which they were made. Made again
# in this order after an interrupt, their groups get the names that they had.
_made: dict[tuple[Any, ...], Any] = {}
_made_on: Any = None


def device_mesh(
    device_type: str,
    names: tuple[str, ...],
    sizes: tuple[int, ...],
    along: tuple[str, ...] = (),
) -> Any:
    """Return the ``DeviceMesh`` of torch with these dimensions, the same one each time.

    With `along`, its part along these as one dimension. The first time all ranks must call it.
    Meshes are made nowhere else, so that it is known what to make again on a new process group.
    """
    global _made_on
    if _made_on is not dist.group.WORLD:  # after an interrupt, say
        before = list(_made)
        _made.clear()
        _made_on = dist.group.WORLD
        for recipe in before:
            device_mesh(*recipe)
    wanted = device_type, names, sizes, along
    if wanted not in _made:
        if along:
            _made[wanted] = flattened(device_mesh(device_type, names, sizes), along)
        else:
            _made[wanted] = init_device_mesh(device_type, sizes, mesh_dim_names=names)
    return _made[wanted]


def stay_on_new_group() -> None:
    """Take note that the groups of all meshes are there again, on the process group of now."""
    global _made_on
    _made_on = dist.group.WORLD


def forget_meshes() -> None:
    """Take note that all meshes are to be made anew, and not again: a new rank knows of none."""
    _made.clear()
    stay_on_new_group()


def flattened(mesh: Any, along: tuple[str, ...], name: str | None = None) -> Any:
    """Return the part of a mesh along dimensions, as one; the first time all ranks must call it."""
    return mesh[along]._flatten(name or "_".join(along))
