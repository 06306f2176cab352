"""How the processes are arranged, and what follows from their places: data, gradients, groups."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist

# Processes that differ only in their places along these compute on the same samples.
_SAME_DATA = ("tp", "cp", "sp", "pp")
# Copies of one model, each with samples of its own.
_COPIES = "dp_replicate"


@dataclass(frozen=True)
class Mesh:
    """The processes in a grid, with a dimension for each way in which they share the work.

    Attributes
    ----------
    device : torch.device
        Of this process.
    names, sizes : tuple
        Of the dimensions, the outermost first.
    ranks : tuple of int
        Of the processes, in the order of their places.
    rank : int
        Of this process.

    Examples
    --------
    >>> import torch
    >>> from accelnb.training.parallel.mesh import Mesh
    >>> names, sizes = ("dp_replicate", "tp"), (2, 3)
    >>> mesh = Mesh(torch.device("cpu"), names, sizes, ranks=tuple(range(6)), rank=4)
    >>> mesh.places
    {'dp_replicate': 1, 'tp': 1}
    >>> mesh.data_shares, mesh.data_share, mesh.first_with_each_share
    (2, 1, [0, 3])
    """

    device: torch.device
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    ranks: tuple[int, ...]
    rank: int

    @classmethod
    def of_copies(cls, device: torch.device, size: int, rank: int) -> Mesh:
        """Return the mesh of processes that each have the whole model, and data of their own."""
        return cls(device, (_COPIES,), (size,), tuple(range(size)), rank)

    @classmethod
    def of_torch(cls, mesh: Any, device: torch.device, rank: int) -> Mesh:
        """Return what a ``DeviceMesh`` of torch with named dimensions describes."""
        ranks = tuple(mesh.mesh.flatten().tolist())
        return cls(device, tuple(mesh.mesh_dim_names), tuple(mesh.mesh.shape), ranks, rank)

    @property
    def size(self) -> int:
        """The number of processes."""
        return math.prod(self.sizes)

    @property
    def places(self) -> dict[str, int]:
        """This process's place along each dimension."""
        return dict(zip(self.names, self._grid()[self.rank], strict=True))

    # ---- data ----

    @property
    def data_shares(self) -> int:
        """Into how many parts data is divided."""
        return math.prod(n for name, n in self._dimensions() if name not in _SAME_DATA)

    @property
    def data_share(self) -> int:
        """Which part of the data this process computes on."""
        return self._shares.get(self.rank, 0)

    @cached_property
    def first_with_each_share(self) -> list[int]:
        """The first rank that computes on each part of the data."""
        first: dict[int, int] = {}
        for rank, share in sorted(self._shares.items()):
            first.setdefault(share, rank)
        return [first[share] for share in range(self.data_shares)]

    def shares_of(self, num_processes: int) -> list[int]:
        """Return for each rank of a process group which part of the data it computes on."""
        shares = self._shares
        return [shares.get(rank, 0) for rank in range(num_processes)]

    # ---- communication ----

    def group(self, name: str) -> Any:
        """Return the process group along a dimension that this process is in; None if it is alone.

        It is that of now: after an interrupt it may be a new one.
        """
        if dict(self._dimensions())[name] == self.size:
            return dist.group.WORLD
        return device_mesh(self.device.type, self.names, self.sizes).get_group(name)

    @property
    def copies_group(self) -> Any:
        """The process group of the processes that average gradients of one whole model."""
        return self.group(_COPIES)

    def _dimensions(self) -> list[tuple[str, int]]:
        return list(zip(self.names, self.sizes, strict=True))

    def _grid(self) -> dict[int, tuple[int, ...]]:
        """Return each rank's place along each dimension."""
        return dict(zip(self.ranks, itertools.product(*map(range, self.sizes)), strict=True))

    @cached_property
    def _shares(self) -> dict[int, int]:
        """Which part of the data each rank computes on."""
        shares = {}
        for rank, at in self._grid().items():
            share = 0
            for (name, size), place in zip(self._dimensions(), at, strict=True):
                if name not in _SAME_DATA:
                    share = share * size + place
            shares[rank] = share
        return shares


# The meshes of torch on the process group of now, in the order in which they were made. Made again
# in this order after an interrupt, their groups get the names that they had.
_made: dict[tuple[str, tuple[str, ...], tuple[int, ...]], Any] = {}
_made_on: Any = None


def device_mesh(device_type: str, names: Sequence[str], sizes: Sequence[int]) -> Any:
    """Return the ``DeviceMesh`` of torch with these dimensions, the same one each time.

    The first time all ranks must call it. Meshes are made nowhere else, so that it is known what
    to make again on a new process group.
    """
    from torch.distributed.device_mesh import init_device_mesh  # slow to import

    global _made_on
    if _made_on is not dist.group.WORLD:  # after an interrupt, say
        _made_on = dist.group.WORLD
        _made.clear()
    wanted = device_type, tuple(names), tuple(sizes)
    if wanted not in _made:
        _made[wanted] = init_device_mesh(device_type, wanted[2], mesh_dim_names=wanted[1])
    return _made[wanted]
