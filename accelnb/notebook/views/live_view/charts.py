"""Charts of what the ranks streamed, as SVG pictures that need no script."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence

from accelnb.engine.metrics import Series
from accelnb.notebook.views.streamed_values import thinned

# Okabe and Ito's colours, told apart by the colour-blind, on light and dark ground.
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b08a00", "#8c6bb1", "#7f7f7f",
)  # fmt: skip
_WIDTH, _HEIGHT = 320, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 8, 22
_POINTS = 400  # of a line
_QUIET = "#8a8a8a"
_TEXT = f'fill="{_QUIET}" font-family="sans-serif" font-size="10"'

Points = Sequence[tuple[float, float]]


def line_chart(series: Series) -> str | None:
    """Return a scalar's course, a line a rank, as a data URL; None if there is no number.

    With more than 8 ranks it is their mean in the band between the least and the greatest.
    """
    lines = {
        rank: [(p.step, p.value) for p in thinned(series[rank], 0, len(series[rank]), _POINTS)]
        for rank in series
    }
    finite = [point for points in lines.values() for point in points if math.isfinite(point[1])]
    if not finite:
        return None
    scale = _Scale(finite)
    drawn = scale.axes()
    if len(lines) <= len(COLOURS):
        for number, points in enumerate(lines.values()):
            drawn += _path(scale, points, COLOURS[number])
    else:
        drawn += _band(scale, lines)
    return _data_url(drawn)


def bar_chart(counts: Sequence[float], edges: Sequence[float]) -> str | None:
    """Return a histogram as a data URL."""
    if not counts:
        return None
    scale = _Scale([(edges[0], 0.0), (edges[-1], float(max(counts)))])
    drawn = scale.axes()
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        x, y = scale.x(left), scale.y(count)
        width = max(0.5, scale.x(right) - x - 0.5)
        height = _HEIGHT - _BOTTOM - y
        drawn += (
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'fill="{COLOURS[0]}"/>'
        )
    return _data_url(drawn)


class _Scale:
    """Where numbers lie in the picture."""

    def __init__(self, points: Points) -> None:
        xs, ys = [x for x, _ in points], [y for _, y in points]
        self._x, self._y = (min(xs), max(xs)), (min(ys), max(ys))

    def x(self, value: float) -> float:
        return _LEFT + _share(value, self._x) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - _share(value, self._y) * (_HEIGHT - _TOP - _BOTTOM)

    def axes(self) -> str:
        floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
        drawn = (
            f'<path d="M{_LEFT} {_TOP}V{floor}H{right}" fill="none" stroke="{_QUIET}" '
            'stroke-opacity=".6"/>'
        )
        for value in dict.fromkeys(self._y):
            at = self.y(value) + 3
            drawn += f'<text x="{_LEFT - 4}" y="{at:.1f}" text-anchor="end" {_TEXT}>'
            drawn += f"{_short(value)}</text>"
        for value, anchor in zip(dict.fromkeys(self._x), ("start", "end"), strict=False):
            drawn += f'<text x="{self.x(value):.1f}" y="{_HEIGHT - 8}" '
            drawn += f'text-anchor="{anchor}" {_TEXT}>{_short(value)}</text>'
        return drawn


def _share(value: float, span: tuple[float, float]) -> float:
    low, high = span
    return (value - low) / (high - low) if high > low else 0.5


def _path(scale: _Scale, points: Points, colour: str) -> str:
    """Return a line that has gaps where there is no finite number."""
    drawn = []
    up = True
    for step, value in points:
        if not math.isfinite(value):
            up = True
            continue
        drawn.append(f"{'M' if up else 'L'}{scale.x(step):.1f} {scale.y(value):.1f}")
        up = False
    if len(drawn) == 1:  # one point is to be seen too
        drawn.append("h0.1")
    return (
        f'<path d="{"".join(drawn)}" fill="none" stroke="{colour}" stroke-width="1.5" '
        'stroke-linejoin="round" stroke-linecap="round"/>'
    )


def _band(scale: _Scale, lines: Mapping[int, Points]) -> str:
    at: dict[float, list[float]] = {}
    for points in lines.values():
        for step, value in points:
            if math.isfinite(value):
                at.setdefault(step, []).append(value)
    steps = sorted(at)
    edge = [(step, max(at[step])) for step in steps]
    edge += [(step, min(at[step])) for step in reversed(steps)]
    outline = " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in edge)
    mean = [(step, sum(at[step]) / len(at[step])) for step in steps]
    return f'<polygon points="{outline}" fill="{COLOURS[0]}" fill-opacity=".2"/>' + _path(
        scale, mean, COLOURS[0]
    )


def _short(value: float) -> str:
    return html.escape(f"{value:.3g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.2g}")


def _data_url(drawn: Iterable[str] | str) -> str:
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}">{"".join(drawn)}</svg>'
    )
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()}"
