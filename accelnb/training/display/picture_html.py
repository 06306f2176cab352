"""The picture of a sharded model as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from accelnb.devices.memory_size import in_words
from accelnb.options.mesh_words import places_in_words
from accelnb.training.display.picture import Picture, Row, ranges_in_words
from accelnb.training.display.picture_text import (
    cuts,
    drawn,
    each_rank,
    grid_of,
    headline,
    notes_of,
    shape_in_words,
    split_in_words,
)

# Okabe and Ito's colours, told apart by the colour-blind, on light and dark ground.
_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b08a00", "#8c6bb1", "#7f7f7f",
)  # fmt: skip
_SEE_THROUGH = "66"
_STRIPED = 4  # ranks, at most, whose colours a piece is striped with
_MOST_PIECES = 8  # that are drawn along one side
_MOST_RANKS = 64  # that the grid of ranks shows
_QUIET = "color:var(--jp-ui-font-color2,#767676)"
_LEFT = "text-align:left;vertical-align:middle"
_UNBROKEN = "white-space:nowrap"
_ROOM = "..."


def as_html(picture: Picture) -> str:
    """Return the picture as HTML without scripts; GitHub, which takes away styles, shows it too."""
    head = "".join(
        f'<th style="{_LEFT}">{name}</th>'
        for name in ("weight", "shape", "split", "ranks", "each rank / all")
    )
    body = "".join(_html_row(row, picture) for row in picture.rows)
    return (
        '<div class="accelnb-model" style="overflow-x:auto">'
        f"<div>{html.escape(headline(picture))}</div>"
        f"{_html_ranks(picture)}"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _html_ranks(picture: Picture) -> str:
    """Return the ranks in their grid, each with its colour and what it holds."""
    ranks = picture.ranks
    if not 1 < len(ranks) <= _MOST_RANKS:
        return ""
    across = picture.mesh[-1][1] if len(picture.mesh) > 1 else len(ranks)
    across = min(across, _MOST_PIECES)
    cells = [
        f'<td style="{_LEFT};{_UNBROKEN};{_colours([rank])}">rank {rank}{at}<br>'
        f"{in_words(picture.bytes_of(rank))}</td>"
        for rank, at in zip(ranks, _places(picture), strict=True)
    ]
    lines = ("".join(cells[at : at + across]) for at in range(0, len(cells), across))
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _places(picture: Picture) -> list[str]:
    """Return where each rank is in a mesh of several dimensions."""
    places = places_in_words(picture.mesh) if len(picture.mesh) > 1 else []
    if len(places) != len(picture.ranks):
        return [""] * len(picture.ranks)
    return [f": {place}" for place in places]


def _html_row(row: Row, picture: Picture) -> str:
    notes = notes_of(row)
    said = f'<br><span style="{_QUIET}">{html.escape(notes)}</span>' if notes else ""
    sizes = f"{each_rank(row, picture.ranks)} / {in_words(row.bytes)}"
    cells = (
        f'<span style="{_UNBROKEN}">{html.escape(row.name)}</span>{said}',
        f'<span style="{_UNBROKEN}">{shape_in_words(row)}</span>'
        f'<br><span style="{_QUIET}">{row.dtype}</span>',
        html.escape(split_in_words(row)),
        _html_drawing(row, picture.ranks),
        sizes,
    )
    line = "".join(f'<td style="{_LEFT}">{cell}</td>' for cell in cells)
    return f"<tr>{line}</tr>"


def _html_drawing(row: Row, ranks: Sequence[int]) -> str:
    """Return a weight as a box cut into pieces, with the ranks that hold each."""
    down, across = drawn(row)
    heights, widths = _shares(row, down), _shares(row, across)
    lines = []
    for line, height in _some(list(zip(grid_of(row, ranks), heights, strict=True))):
        cells = "".join(
            f'<td style="padding:0 2px;text-align:center;width:{width:.0%};'
            f'{_colours(cell)}">{_ranks_in_cell(cell)}</td>'
            for cell, width in _some(list(zip(line, widths, strict=True)))
        )
        tall = max(1.3, 2.6 * height)
        lines.append(f'<tr style="height:{tall:.1f}em">{cells}</tr>')
    looks = "width:9em;table-layout:fixed;border-collapse:collapse;margin:0"
    return f'<table style="{looks}">{"".join(lines)}</table>'


def _shares(row: Row, dimension: int | None) -> list[float]:
    """Return how large the parts of a dimension are, of it all."""
    if dimension is None:
        return [1.0]
    whole = max(1, row.shape[dimension])
    return [sum(end - begin for begin, end in cut) / whole for cut in cuts(row, dimension)]


def _some(parts: list[tuple[Any, float]]) -> list[tuple[Any, float]]:
    """Return the first and the last parts, of too many."""
    if len(parts) <= _MOST_PIECES:
        return parts
    left_out = [[] for _ in parts[0][0]] if parts[0][0] and isinstance(parts[0][0][0], list) else []
    return [*parts[: _MOST_PIECES - 2], (left_out, 0.1), parts[-1]]


def _ranks_in_cell(ranks: Sequence[int]) -> str:
    return ranges_in_words(ranks) if ranks else _ROOM


def _colours(ranks: Iterable[int]) -> str:
    """Return the style of a piece that these ranks hold."""
    colours = [_COLOURS[rank % len(_COLOURS)] + _SEE_THROUGH for rank in ranks]
    edge = "border:1px solid var(--jp-border-color1,#999)"
    if not colours or len(colours) > _STRIPED:
        return f"{edge};background:rgba(128,128,128,.15)"
    if len(colours) == 1:
        return f"{edge};background:{colours[0]}"
    stripes = ",".join(f"{c} {8 * at}px {8 * at + 8}px" for at, c in enumerate(colours))
    return f"{edge};background:repeating-linear-gradient(135deg,{stripes})"
