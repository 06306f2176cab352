"""Which piece of a sharded tensor each rank of a mesh holds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod
from typing import Any

import torch

Span = tuple[int, int]  # from, up to
Piece = tuple[tuple[Span, ...], ...]  # the spans along each dimension of a tensor


def pieces_of(
    shape: Sequence[int], ranks: torch.Tensor, placements: Sequence[Any]
) -> dict[int, Piece]:
    """Return what each rank of a mesh holds of a tensor of this shape with these placements."""
    cuts = _in_turn(ranks.shape, placements)
    found = {}
    for place in itertools.product(*map(range, ranks.shape)):
        spans: list[tuple[Span, ...]] = [((0, size),) for size in shape]
        for at, dimension, strides in cuts:
            spans[dimension] = _part(spans[dimension], ranks.shape[at], place[at], strides)
        found[int(ranks[place])] = tuple(spans)
    return found


def _in_turn(sizes: Sequence[int], placements: Sequence[Any]) -> list[tuple[int, int, int]]:
    """Return how a tensor is cut, in turn: the mesh's dimension, the tensor's, the strides.

    FSDP cuts what tensor parallelism has cut before, though it stands before it in the mesh; torch
    writes that down as so many strides as there are parts then.
    """
    first, then = [], []
    for at, placement in enumerate(placements):
        dimension = getattr(placement, "dim", None)
        if dimension is None:
            continue
        strides = getattr(placement, "split_factor", 1)
        behind = range(at + 1, len(placements))
        cut = [sizes[n] for n in behind if getattr(placements[n], "dim", None) == dimension]
        if strides > 1 and strides == prod(cut):
            then.insert(0, (at, dimension, 1))
        else:
            first.append((at, dimension, strides))
    return first + then


def everywhere(pieces: dict[int, Piece], ranks: torch.Tensor | None) -> dict[int, Piece]:
    """Add the ranks beside a weight's mesh: they have a mesh of their own, with the same weight.

    A norm between layers that tensor parallelism divides lies on this rank's ``dp_shard`` alone.
    """
    if ranks is None or not set(pieces) < set(ranks.flatten().tolist()):
        return pieces
    places = {int(ranks[place]): place for place in itertools.product(*map(range, ranks.shape))}
    first = places[next(iter(pieces))]
    own = {rank: places[rank] for rank in pieces}
    varies = [any(place[at] != first[at] for place in own.values()) for at in range(ranks.dim())]
    here = {
        tuple(at if free else 0 for at, free in zip(place, varies, strict=True)): pieces[rank]
        for rank, place in own.items()
    }
    found = {}
    for rank, place in places.items():
        key = tuple(at if free else 0 for at, free in zip(place, varies, strict=True))
        if key not in here:  # no grid within the other
            return pieces
        found[rank] = here[key]
    return found


def _part(spans: tuple[Span, ...], places: int, place: int, strides: int) -> tuple[Span, ...]:
    """Return one place's part of spans, cut as ``torch.chunk`` does.

    With several strides they are cut into so many times the parts, of which a place has one in
    each stride.
    """
    total = sum(end - begin for begin, end in spans)
    size = -(-total // (places * strides)) or 1
    taken = [
        (min(part * size, total), min((part + 1) * size, total))
        for part in range(place, places * strides, places)
    ]
    found: list[Span] = []
    for begin, end in taken:
        at = 0  # how far the spans before reach
        for first, last in spans:
            low = max(begin - at, 0) + first
            high = min(end - at, last - first) + first
            at += last - first
            if low >= high:
                continue
            if found and found[-1][1] == low:
                found[-1] = (found[-1][0], high)
            else:
                found.append((low, high))
    return tuple(found)


def numbers_in(piece: Piece) -> int:
    """Return how many numbers a piece has."""
    return prod(sum(end - begin for begin, end in spans) for spans in piece)
