"""How the processes are arranged, and what follows from their places: data, gradients, groups."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

# Processes that differ only in their places along these compute on the same samples.
_SAME_DATA = ("tp", "cp", "sp", "pp")


@dataclass(frozen=True)
class Mesh:
    """The processes in a grid, with a dimension for each way in which they share the work.

    Attributes
    ----------
    device : torch.device
        Of this process.
    dimensions : dict
        The number of places along each, by its name, the outermost first.
    ranks : tuple of int
        Of the processes, in the order of their places.
    rank : int
        Of this process.

    Examples
    --------
    >>> import torch
    >>> from accelnb.training.parallel.mesh import Mesh
    >>> cpu = torch.device("cpu")
    >>> mesh = Mesh(cpu, {"dp_replicate": 2, "tp": 3}, ranks=tuple(range(6)), rank=4)
    >>> mesh.places[mesh.rank]
    {'dp_replicate': 1, 'tp': 1}
    >>> mesh.data_shares, mesh.data_share, mesh.first_with_each_share
    (2, 1, [0, 3])
    """

    device: torch.device
    dimensions: dict[str, int]
    ranks: tuple[int, ...]
    rank: int

    @classmethod
    def of_copies(cls, device: torch.device, size: int, rank: int) -> Mesh:
        """Return the mesh of processes that each have the whole model, and data of their own."""
        return cls(device, {"dp_replicate": size}, tuple(range(size)), rank)

    @classmethod
    def of_torch(cls, mesh: Any, device: torch.device, rank: int) -> Mesh:
        """Return what a ``DeviceMesh`` of torch with named dimensions describes."""
        dimensions = dict(zip(mesh.mesh_dim_names, mesh.mesh.shape, strict=True))
        return cls(device, dimensions, tuple(mesh.mesh.flatten().tolist()), rank)

    @property
    def size(self) -> int:
        """The number of processes."""
        return len(self.ranks)

    @cached_property
    def places(self) -> dict[int, dict[str, int]]:
        """Each rank's place along each dimension."""
        grid = itertools.product(*map(range, self.dimensions.values()))
        return {
            rank: dict(zip(self.dimensions, at, strict=True))
            for rank, at in zip(self.ranks, grid, strict=True)
        }

    def group(self, name: str) -> Any:
        """Return the process group along a dimension that this process is in; None if it is alone.

        It is that of now: after an interrupt it may be a new one.
        """
        if self.dimensions[name] == self.size:
            return dist.group.WORLD
        sizes = tuple(self.dimensions.values())
        return device_mesh(self.device.type, tuple(self.dimensions), sizes).get_group(name)

    # ---- data ----

    @property
    def data_shares(self) -> int:
        """Into how many parts data is divided."""
        return len(self.first_with_each_share)

    @property
    def data_share(self) -> int:
        """Which part of the data this process computes on."""
        return self._shares.get(self.rank, 0)

    @cached_property
    def first_with_each_share(self) -> list[int]:
        """The first rank that computes on each part of the data."""
        first = {share: rank for rank, share in sorted(self._shares.items(), reverse=True)}
        return [first[share] for share in sorted(first)]

    def shares_of(self, num_processes: int) -> list[int]:
        """Return for each rank of a process group which part of the data it computes on."""
        return [self._shares.get(rank, 0) for rank in range(num_processes)]

    @cached_property
    def _shares(self) -> dict[int, int]:
        """Which part of the data each rank computes on."""
        dividing = [name for name in self.dimensions if name not in _SAME_DATA]
        along = {rank: tuple(at[name] for name in dividing) for rank, at in self.places.items()}
        numbers = {places: number for number, places in enumerate(sorted(set(along.values())))}
        return {rank: numbers[places] for rank, places in along.items()}


# The meshes of torch on the process group of now, in the order in which they were made. Made again
# in this order after an interrupt, their groups get the names that they had.
_made: dict[tuple[Any, ...], Any] = {}
_made_on: Any = None


def device_mesh(device_type: str, names: tuple[str, ...], sizes: tuple[int, ...]) -> Any:
    """Return the ``DeviceMesh`` of torch with these dimensions, the same one each time.

    The first time all ranks must call it. Meshes are made nowhere else, so that it is known what
    to make again on a new process group.
    """
    global _made_on
    if _made_on is not dist.group.WORLD:  # after an interrupt, say
        _made_on = dist.group.WORLD
        _made.clear()
    wanted = device_type, names, sizes
    if wanted not in _made:
        _made[wanted] = init_device_mesh(device_type, sizes, mesh_dim_names=names)
    return _made[wanted]
