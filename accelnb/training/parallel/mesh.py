"""How the processes are arranged, and what follows from their places: data, gradients, groups."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from accelnb.options.mesh import MESH_DIMENSIONS
from accelnb.training.device_mesh import device_mesh, flattened

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
    given : torch.distributed.DeviceMesh, optional
        One of the user's own that is to be used.

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
    given: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def of_copies(cls, device: torch.device, size: int, rank: int) -> Mesh:
        """Return the mesh of processes that each have the whole model, and data of their own."""
        return cls(device, {"dp_replicate": size}, tuple(range(size)), rank)

    @classmethod
    def of_torch(cls, mesh: Any, device: torch.device, rank: int) -> Mesh:
        """Return what a ``DeviceMesh`` of torch with named dimensions describes."""
        dimensions = dict(zip(mesh.mesh_dim_names, mesh.mesh.shape, strict=True))
        return cls(device, dimensions, tuple(mesh.mesh.flatten().tolist()), rank, mesh)

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

    # ---- dimensions ----

    def size_along(self, *names: str) -> int:
        """Return the number of places along dimensions, 1 for one that there is not."""
        return math.prod(self.dimensions.get(name, 1) for name in names)

    def has(self, *names: str) -> bool:
        """Return whether there is more than one place along dimensions."""
        return self.size_along(*names) > 1

    def place_along(self, *names: str) -> int:
        """Return this process's place along dimensions, numbered with the last running fastest."""
        place, mine = 0, self.places.get(self.rank, {})
        for name in names:
            place = place * self.size_along(name) + mine.get(name, 0)
        return place

    # ---- what torch has for them; it is of the process group of now: after an interrupt, another

    def group(self, *names: str) -> Any:
        """Return the process group of those that differ from this process along dimensions only.

        It is None if there are no others. The first time all ranks must call it.
        """
        if self.size_along(*names) == self.size:
            return dist.group.WORLD
        if not self.has(*names):
            return None
        return self.submesh(*names).get_group()

    @property
    def torch_mesh(self) -> Any:
        """The ``DeviceMesh`` of all processes; the first time all ranks must ask for it."""
        if self.given is not None:
            return self.given
        names, sizes = zip(*self._torch_dimensions, strict=True)
        return device_mesh(self.device.type, names, sizes)

    def submesh(self, *names: str) -> Any:
        """Return the ``DeviceMesh`` along dimensions, several as one; see `group`."""
        there = tuple(name for name in names if name in dict(self._torch_dimensions))
        if len(there) == 1:
            return self.torch_mesh[there[0]]
        if self.given is not None:
            return flattened(self.given, there)
        all_names, sizes = zip(*self._torch_dimensions, strict=True)
        return device_mesh(self.device.type, all_names, sizes, along=there)

    @property
    def fsdp_mesh(self) -> Any:
        """The ``DeviceMesh`` for torch's ``fully_shard``; see `group`.

        It has the dimensions that divide the weights as one, and before it those that replicate
        them, if there are any.
        """
        dividing = self.submesh(*self._of_weights)
        if not self.has("dp_replicate"):
            return dividing
        return DeviceMesh._concatenate([self.torch_mesh["dp_replicate"], dividing])

    @property
    def _of_weights(self) -> list[str]:
        """The dimensions over which ``fully_shard`` divides weights: of size 1 if there is none."""
        return [name for name in ("dp_shard", "cp", "sp") if self.has(name)] or ["dp_shard"]

    @property
    def _torch_dimensions(self) -> list[tuple[str, int]]:
        if self.given is not None:
            return list(self.dimensions.items())
        alone = {"dp_shard"} if self.has("tp") or "dp_shard" in self.dimensions else set()
        needed = set() if self.has("dp_shard", "cp", "sp") else alone
        sizes = {name: self.size_along(name) for name in MESH_DIMENSIONS}
        kept = [(name, n) for name, n in sizes.items() if n > 1 or name in needed]
        return kept or [("dp_replicate", 1)]

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
