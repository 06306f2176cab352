"""Which weight of a model is split how over which ranks: read from the model, as plain rows."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from accelnb.training.display.pieces import Piece, everywhere, numbers_in, pieces_of

Places = tuple[tuple[str, int], ...]  # the dimensions of a mesh, each with its size

_NUMBER = r"(?<![^.])\d+(?![^.])"  # of a block, in the name of a weight
_PARTIAL = "sum"  # of a mesh's dimension along which ranks hold what is still to be added up


@dataclass(frozen=True)
class Row:
    """A weight, or those of the same form in repeated blocks.

    Attributes
    ----------
    name : str
        Such as ``blocks.0-11.attn.q.weight``.
    count : int
        How many weights it stands for.
    shape : tuple of int
    dtype : str
    mesh : tuple
        The dimensions of the mesh it lies on, each with its size; empty for one on no mesh.
    along : tuple
        For each of these: the dimension of the weight that it splits, None where each place has
        the same, ``sum`` where the places hold parts of a sum.
    pieces : dict
        What each rank holds of one weight; empty where each has the whole.
    bytes : int
        Of all of the weights.
    notes : tuple of str
        ``frozen``, ``tied: head.weight``, ...
    """

    name: str
    count: int
    shape: tuple[int, ...]
    dtype: str
    mesh: Places
    along: tuple[int | str | None, ...]
    pieces: Mapping[int, Piece]
    bytes: int
    notes: tuple[str, ...] = ()

    @property
    def is_split(self) -> bool:
        """Whether a rank holds only a part."""
        return any(isinstance(dimension, int) for dimension in self.along)

    def bytes_of(self, rank: int) -> int:
        """Return how much of it a rank holds."""
        if not self.pieces:
            return self.bytes
        if rank not in self.pieces or not prod(self.shape):
            return 0
        return self.bytes * numbers_in(self.pieces[rank]) // prod(self.shape)


@dataclass(frozen=True)
class Picture:
    """How a model lies on its ranks.

    Attributes
    ----------
    name : str
        The model's class.
    rank : int
        The rank that was asked.
    ranks : tuple of int
        Those that hold a part of the model, as far as this rank knows.
    rows : tuple of Row
        In the order of the model.
    buffers : int
        Bytes of the buffers, which each rank has whole.
    """

    name: str
    rank: int
    ranks: tuple[int, ...]
    rows: tuple[Row, ...]
    buffers: int = 0

    @property
    def mesh(self) -> Places:
        """The largest mesh that a split weight lies on."""
        meshes = (row.mesh for row in self.rows if row.is_split)
        return max(meshes, key=lambda mesh: prod(size for _, size in mesh), default=())

    @property
    def bytes(self) -> int:
        return sum(row.bytes for row in self.rows)

    def bytes_of(self, rank: int) -> int:
        """Return how much of the weights a rank holds."""
        return sum(row.bytes_of(rank) for row in self.rows)


def picture_of(model: nn.Module) -> Picture:
    """Return how a model lies on its ranks, as this rank sees it. It is no collective.

    Examples
    --------
    >>> import torch
    >>> from accelnb.training.display.picture import picture_of
    >>> layers = [torch.nn.Sequential(torch.nn.Linear(8, 8)) for _ in range(3)]
    >>> [(row.name, row.shape, row.bytes) for row in picture_of(torch.nn.Sequential(*layers)).rows]
    [('0-2.0.weight', (8, 8), 768), ('0-2.0.bias', (8,), 96)]
    """
    names = _names_by_weight(model)
    gathered = _gathered(model)
    shards = [gathered.get(id(weight), weight) for weight, _ in names]
    whole_mesh = _whole_mesh(shards)
    rows = [
        _row(weight, shard, its_names, whole_mesh)
        for (weight, its_names), shard in zip(names, shards, strict=True)
    ]
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    on_meshes = {r for row in rows for r in row.pieces}
    is_whole = any(not row.mesh for row in rows) or not rows
    return Picture(
        type(model).__name__.removeprefix("FSDP"),
        rank,
        tuple(range(size)) if is_whole else tuple(sorted(on_meshes)),
        tuple(folded(rows)),
        sum(buffer.nbytes for buffer in model.buffers()),
    )


# ---- one weight ----


def _names_by_weight(model: nn.Module) -> list[tuple[nn.Parameter, list[str]]]:
    found: dict[int, tuple[nn.Parameter, list[str]]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(weight), (weight, []))[1].append(name)
    return list(found.values())


def _gathered(model: nn.Module) -> dict[int, Any]:
    """Return the shards of the weights that FSDP has gathered at the moment, by the weight's id.

    A forward pass without a backward pass leaves the outermost ones so.
    """
    if "torch.distributed.fsdp" not in sys.modules:
        return {}
    from torch.distributed.fsdp import FSDPModule

    found = {}
    for module in model.modules():
        if not isinstance(module, FSDPModule):
            continue
        for group in getattr(module._get_fsdp_state(), "_fsdp_param_groups", ()):
            for of_fsdp in group.fsdp_params:
                where = of_fsdp._module_info
                now = getattr(where.module, where.param_name, None)
                if now is not None and now is not of_fsdp.sharded_param:
                    found[id(now)] = of_fsdp.sharded_param
    return found


def _whole_mesh(shards: Iterable[Any]) -> torch.Tensor | None:
    """Return the ranks of the largest mesh that a weight's mesh is a part of."""
    meshes = [shard.device_mesh for shard in shards if hasattr(shard, "device_mesh")]
    wholes = [mesh._get_root_mesh().mesh for mesh in dict.fromkeys(meshes)]
    return max(wholes, key=torch.Tensor.numel, default=None)


def _row(
    weight: nn.Parameter, shard: Any, names: Sequence[str], whole_mesh: torch.Tensor | None
) -> Row:
    notes = []
    if len(names) > 1:
        notes.append("tied: " + ", ".join(names[1:]))
    if not weight.requires_grad:
        notes.append("frozen")
    if shard is not weight:
        notes.append("gathered at the moment")
    dtype = str(shard.dtype).removeprefix("torch.")
    if shard.is_meta:
        notes.append("no memory yet (meta)")
    size = shard.numel() * shard.element_size()
    mesh = getattr(shard, "device_mesh", None)
    if mesh is None:
        return Row(names[0], 1, tuple(shard.shape), dtype, (), (), {}, size, tuple(notes))
    return Row(
        names[0],
        1,
        tuple(shard.shape),
        dtype,
        _places_of(mesh),
        tuple(_along(placement) for placement in shard.placements),
        everywhere(pieces_of(shard.shape, mesh.mesh, shard.placements), whole_mesh),
        size,
        tuple(notes),
    )


def _places_of(mesh: Any) -> Places:
    sizes = tuple(mesh.mesh.shape)
    unnamed = ["shard"] if len(sizes) == 1 else [f"mesh {at}" for at in range(len(sizes))]
    names = mesh.mesh_dim_names or unnamed
    return tuple(zip(names, sizes, strict=True))


def _along(placement: Any) -> int | str | None:
    if placement.is_partial():
        return _PARTIAL
    return getattr(placement, "dim", None)


# ---- repeated blocks ----


def folded(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield one row for those of repeated blocks that differ only in the blocks' numbers."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        name, *notes = (re.sub(_NUMBER, "*", text) for text in (row.name, *row.notes))
        looks = (row.shape, row.dtype, row.mesh, row.along, tuple(row.pieces.items()))
        groups.setdefault((name, *notes, *looks), []).append(row)
    for group in groups.values():
        yield from _one_of(group)


def _one_of(group: list[Row]) -> Iterator[Row]:
    numbers = [tuple(int(n) for n in re.findall(_NUMBER, r.name)) for r in group]
    each = [sorted(set(column)) for column in zip(*numbers, strict=True)]
    if len(group) == 1 or prod(map(len, each)) != len(group):
        yield from group  # not every block has it
        return
    ranges = iter(ranges_in_words(column) for column in each)
    name = re.sub(_NUMBER, lambda _: next(ranges), group[0].name)
    yield replace(
        group[0],
        name=name,
        count=len(group),
        bytes=sum(row.bytes for row in group),
    )


def ranges_in_words(numbers: Iterable[int]) -> str:
    """Return numbers as people write them.

    Examples
    --------
    >>> from accelnb.training.display.picture import ranges_in_words
    >>> ranges_in_words([0, 1, 2, 5, 7, 8])
    '0-2,5,7,8'
    """
    said = []
    rest = sorted(numbers)
    while rest:
        length = next((n for n in range(1, len(rest)) if rest[n] != rest[0] + n), len(rest))
        run, rest = rest[:length], rest[length:]
        said += [f"{run[0]}-{run[-1]}"] if length > 2 else [str(n) for n in run]
    return ",".join(said)
