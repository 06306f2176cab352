"""The process groups of meshes: made again, under their old names, on a new default group.

DTensors and meshes know their groups by names, and FSDP2 models theirs by meshes. So they go on
where groups of the old names, of the same ranks, are there again.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence
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
        """Make the groups again that meshes use; every rank calls it.

        It is done for all of them or for none: models that lost a part with a rank say so.

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
        # Equal on all ranks, or the next groups would get names that not all know them by.
        self._count = max(count for count, _ in told)
        if not any(count for count, _ in told):  # all ranks are new
            return
        if is_whole := _are_all_there(told):
            for name in sorted(wanted, key=lambda name: (len(name), name)):
                ranks, backend, options = wanted[name]
                with _named(name):
                    dist.new_group(list(ranks), backend=backend, **options)
            device_mesh.stay_on_new_group()
        else:
            device_mesh.forget_meshes()
        c10d._world.group_count = max(self._count, c10d._world.group_count)
        groups = {str(name): group for group, name in c10d._world.pg_names.items()}
        if is_whole:
            repair.join_new_groups(groups)
        else:
            repair.leave_old_groups()


def _are_all_there(told: Sequence[tuple[int, dict[str, list[int]]]]) -> bool:
    """Return whether all members of each group want it; a rank that was replaced knows of none."""
    if not all(count for count, _ in told):
        return False
    return all(
        told[member][1].get(name) == ranks
        for _, groups in told
        for name, ranks in groups.items()
        for member in ranks
    )


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
