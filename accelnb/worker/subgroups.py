"""The process groups of meshes: made again, under their old names, on a new default group.

DTensors and meshes know their groups by names, and FSDP2 models theirs by meshes. So they go on
where groups of the old names, of the same ranks, are there again.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d
from torch.distributed.device_mesh import DeviceMesh

from accelnb.training import device_mesh
from accelnb.training.parallel import repair

_KEY = "subgroups of rank {}"


class Subgroup(NamedTuple):
    """How a process group beside the default one was made."""

    ranks: tuple[int, ...]
    backend: str
    options: dict[str, Any]


class Subgroups:
    """Those of this rank, noted as they are made."""

    def __init__(self) -> None:
        self._made: dict[str, Subgroup] = {}
        self._lost: dict[str, Subgroup] = {}  # of the group before
        self._count = 0

    def note(self, name: str, made: Subgroup) -> None:
        self._made[name] = made

    def forget(self) -> None:
        """Take note that a cell ended the default group, and makes one of its own."""
        self._made = {}

    def end(self) -> None:
        """Take note that the default group ends, and all others with it."""
        self._lost |= self._made
        self._made = {}
        self._count = max(self._count, c10d._world.group_count)

    def renew(self, store: Any, rank: int, world_size: int) -> None:
        """Make groups again that meshes of all their members use; every rank calls it.

        Parameters
        ----------
        store
            Of the new default group.
        """
        wanted = {n: made for n, made in self._lost.items() if n in _used_names(self._lost)}
        self._lost = {}
        mine = {name: made.ranks for name, made in wanted.items()}
        store.set(_KEY.format(rank), json.dumps([self._count, mine]))
        told = [json.loads(store.get(_KEY.format(other))) for other in range(world_size)]
        agreed = {
            name: made
            for name, made in wanted.items()
            if all(told[member][1].get(name) == list(made.ranks) for member in made.ranks)
        }
        for name in sorted(agreed, key=lambda name: (len(name), name)):
            with _named(name):
                ranks, backend, options = agreed[name]
                dist.new_group(list(ranks), backend=backend, **options)
        # Equal on all ranks, or the next groups would get names that not all know them by.
        self._count = max(count for count, _ in told)
        c10d._world.group_count = max(self._count, c10d._world.group_count)
        if len(agreed) == len(mine) and wanted:
            device_mesh.stay_on_new_group()
        groups = {str(name): group for group, name in c10d._world.pg_names.items()}
        repair.join_new_groups(groups)


def _used_names(known: dict[str, Subgroup]) -> set[str]:
    if not known:
        return set()
    meshes = (one for one in gc.get_objects() if type(one) is DeviceMesh)
    return {name for mesh in meshes for name in getattr(mesh, "_dim_group_names", ())}


@contextmanager
def _named(name: str) -> Iterator[None]:
    own = c10d._process_group_name
    c10d._process_group_name = lambda *_args, **_kwargs: name  # pyright: ignore
    try:
        yield
    finally:
        c10d._process_group_name = own
