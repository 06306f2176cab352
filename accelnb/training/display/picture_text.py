"""The picture of a sharded model as text, and the grid that every form of it draws."""

from __future__ import annotations

from collections.abc import Sequence

from accelnb.devices.memory_size import in_words
from accelnb.training.display.picture import Picture, Row, ranges_in_words
from accelnb.training.display.pieces import Span


def as_text(picture: Picture) -> str:
    """Return the picture as a table of text."""
    rows = [("weight", "shape", "dtype", "split", "ranks", "each rank", "all")]
    for row in picture.rows:
        grid = grid_of(row, picture.ranks)
        ranks = " / ".join(" | ".join(ranges_in_words(cell) for cell in line) for line in grid)
        each, whole = each_rank(row, picture.ranks), in_words(row.bytes)
        rows.append(
            (row.name, shape_in_words(row), row.dtype, split_in_words(row), ranks, each, whole)
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    for at, row in enumerate(picture.rows, 1):
        if said := notes_of(row):
            lines[at] += f"  ({said})"
    return "\n".join([headline(picture), *lines])


def headline(picture: Picture) -> str:
    """Return e.g. ``GPT on 4 ranks, dp_shard 2 x tp 2: each rank holds 1.20 of 4.80 MiB``."""
    count = len(picture.ranks)
    said = f"{picture.name} on {count} rank{'s' * (count != 1)}"
    if picture.mesh:
        said += ", " + " x ".join(f"{name} {size}" for name, size in picture.mesh)
    buffers = f", and {in_words(picture.buffers)} of buffers" if picture.buffers else ""
    if count == 1:
        return f"{said}: {in_words(picture.bytes)}{buffers}"
    each = _span([picture.bytes_of(rank) for rank in picture.ranks])
    if each == in_words(picture.bytes):
        return f"{said}: each rank holds all {each}{buffers}"
    return f"{said}: each rank holds {each} of {in_words(picture.bytes)}{buffers}"


def each_rank(row: Row, ranks: Sequence[int]) -> str:
    return _span([row.bytes_of(rank) for rank in (row.pieces or ranks)])


def _span(sizes: Sequence[int]) -> str:
    low, high = min(sizes), max(sizes)
    return in_words(high) if low == high else f"{in_words(low)} to {in_words(high)}"


def shape_in_words(row: Row) -> str:
    return " x ".join(map(str, row.shape)) or "number"


def split_in_words(row: Row) -> str:
    """Return e.g. ``dim 0 in 2 (dp_shard), dim 1 in 2 (tp)``."""
    said = [
        f"dim {dimension} in {size} ({name})"
        for (name, size), dimension in zip(row.mesh, row.along, strict=True)
        if isinstance(dimension, int) and size > 1
    ]
    said += [
        f"parts of a sum ({name})"
        for (name, _), dimension in zip(row.mesh, row.along, strict=True)
        if isinstance(dimension, str)
    ]
    return ", ".join(said) or "whole"


def notes_of(row: Row) -> str:
    several = [f"{row.count} weights"] if row.count > 1 else []
    none = [rank for rank, piece in row.pieces.items() if not all(piece) and row.shape]
    without = [f"nothing of it on rank {ranges_in_words(none)}"] if none else []
    return "; ".join([*several, *row.notes, *without])


# ---- the grid ----


def drawn(row: Row) -> tuple[int | None, int | None]:
    """Return which dimensions of a weight are drawn downwards and across."""
    split = sorted({d for d in row.along if isinstance(d, int) and len(cuts(row, d)) > 1})
    if len(split) > 1:
        return split[0], split[1]
    if not split:
        return None, None
    return (None, split[0]) if split[0] > 0 or len(row.shape) == 1 else (split[0], None)


def cuts(row: Row, dimension: int | None) -> list[tuple[Span, ...]]:
    """Return the parts that a dimension is cut into, in their order."""
    if dimension is None:
        return [()]
    return sorted({piece[dimension] for piece in row.pieces.values()} - {()})


def grid_of(row: Row, ranks: Sequence[int]) -> list[list[list[int]]]:
    """Return the ranks that hold each piece, in lines from top to bottom."""
    if not row.pieces:
        return [[list(ranks)]]
    down, across = drawn(row)

    def is_at(rank: int, dimension: int | None, part: tuple[Span, ...]) -> bool:
        return dimension is None or row.pieces[rank][dimension] == part

    return [
        [
            [rank for rank in row.pieces if is_at(rank, down, low) and is_at(rank, across, right)]
            for right in cuts(row, across)
        ]
        for low in cuts(row, down)
    ]
