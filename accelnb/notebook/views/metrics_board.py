"""Streamed values, drawn in place: the latest numbers, their course, images."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from accelnb.engine.metrics import Series, Streams
from accelnb.engine.wire.reports import SCALAR
from accelnb.notebook.views.streamed_images import data_url
from accelnb.notebook.views.streamed_values import thinned
from accelnb.notebook.views.updated_display import Area, in_kernel, new_area

_BARS = "▁▂▃▄▅▆▇█"
_COURSE = 24  # bars
_RANKS_SHOWN = 4
_PICTURE = (
    '<figure style="display: inline-block; margin: 0 1em 0 0">'
    '<img src="{url}" style="image-rendering: pixelated">'
    "<figcaption>{said}</figcaption></figure>"
)


class Board:
    """Draws what the ranks of one run stream.

    Parameters
    ----------
    label
        Gives what to write before something of some ranks.
    """

    def __init__(self, streamed: Streams, label: Callable[[Sequence[int]], str]) -> None:
        self._streamed = streamed
        self._label = label
        self._area: Area | None = None
        self._images: dict[str, Area] = {}
        self._changed: set[str] = set()

    def changed(self, names: Iterable[str]) -> None:
        self._changed.update(names)

    def draw(self) -> None:
        if not self._changed:
            return
        self._area = self._area or new_area()
        self._area.show("\n".join(self.lines()))
        self.draw_images()

    def draw_images(self) -> None:
        """Draw the images that changed, each at a place of its own."""
        changed, self._changed = self._changed, set()
        for name in changed:
            if self._streamed[name].kind == "image" and in_kernel():
                self._draw_images(self._streamed[name])

    def cleared(self) -> None:
        """Take note that the cell's output was cleared: all is drawn anew."""
        for area in [*([self._area] if self._area else []), *self._images.values()]:
            area.cleared()
        self._changed.update(self._streamed)

    def close(self) -> None:
        self.draw()
        if self._area is not None:
            self._area.close()

    def lines(self) -> list[str]:
        """Return a line for each name."""
        width = max((len(name) for name in self._streamed), default=0)
        lines = [
            f"{name:<{width}}  {self._latest(self._streamed[name])}" for name in self._streamed
        ]
        for rank, count in sorted(self._streamed.dropped.items()):
            lines.append(
                f"{self._label([rank])}dropped {count:,} values: the notebook was too slow"
            )
        return lines

    def _latest(self, series: Series) -> str:
        ranks = list(series)
        step = max(series[rank][-1].step for rank in ranks)
        shown = [f"step {step:<6}"]
        for rank in ranks[:_RANKS_SHOWN]:
            shown.append(f"{self._label([rank])}{_said(series.kind, series[rank][-1].value)}")
        if len(ranks) > _RANKS_SHOWN:
            shown.append(f"... {len(ranks) - _RANKS_SHOWN} more")
        if series.kind == SCALAR:
            points = series[ranks[0]]
            shown.append(_course([p.value for p in thinned(points, 0, len(points), _COURSE)]))
        return "  ".join(shown)

    def _draw_images(self, series: Series) -> None:
        pictures = []
        for rank in series:
            step, image, _ = series[rank][-1]
            if (url := data_url(image)) is not None:
                said = html.escape(f"{self._label([rank])}{series.name}, step {step}")
                pictures.append(_PICTURE.format(said=said, url=url))
        if pictures:
            area = self._images.setdefault(series.name, new_area())
            area.show(f"{series.name}: images", text_html="".join(pictures))


def _said(kind: str, value: Any) -> str:
    if kind == SCALAR:
        return f"{value:.5g}"
    if kind == "histogram":
        counts, edges = value
        return f"{edges[0]:.3g} {_course(counts)} {edges[-1]:.3g}" if counts else "no finite number"
    shape = "×".join(str(size) for size in value.shape)
    return f"{kind} {shape} {str(value.dtype).removeprefix('torch.')}"


def _course(values: Sequence[float]) -> str:
    """Return the values as bars between the least and the greatest."""
    finite = [value for value in values if value - value == 0]
    if len(finite) < 2:
        return ""
    low, span = min(finite), max(finite) - min(finite)
    top = len(_BARS) - 1
    return "".join(
        _BARS[round((value - low) / span * top) if span else 0] if value - value == 0 else "?"
        for value in values
    )
