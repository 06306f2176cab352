"""What the ranks streamed, as the front end reads it: points, histograms, images."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

from accelnb.engine.metrics import Point, Streams
from accelnb.engine.wire.reports import SCALAR
from accelnb.notebook.views.streamed_images import Painter

_PICTURE_EVERY = 0.5  # s, for each name
_LAST_PICTURES = 5.0  # s
_RATE_OVER = 10.0  # s
_RATE_POINTS = 200

ByRank = dict[str, dict[str, Any]]  # by name, by rank


class Values:
    """Reads a run's streamed values, and keeps what is dear to make of them."""

    def __init__(self, streamed: Streams) -> None:
        self._streamed = streamed
        self._versions: collections.Counter[str] = collections.Counter()
        self._stepped: dict[int, str] = {}  # by rank, the scalar that came last
        self._painter = Painter()
        self._drawn_at: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._versions)

    def take(self, rank: int, names: Iterable[str]) -> None:
        """Take note that a rank streamed under these names."""
        self._versions.update(names)
        for name in names:
            if self._streamed[name].kind == SCALAR and rank in self._streamed[name]:
                self._stepped[rank] = name

    def step_and_rate(self, rank: int) -> tuple[int | None, float | None]:
        """Return where a rank is by its newest scalar, and its steps per second lately."""
        if rank not in self._stepped:
            return None, None
        points = self._streamed[self._stepped[rank]][rank]
        last = points[-1]
        at = max(0, len(points) - _RATE_POINTS)
        while last.time - points[at].time > _RATE_OVER and at < len(points) - 2:
            at = (at + len(points)) // 2
        seconds, steps = last.time - points[at].time, last.step - points[at].step
        return last.step, steps / seconds if seconds > 0 and steps > 0 else None

    def count(self) -> int:
        """Return how many points all scalars have."""
        scalars = self._streamed.scalars()
        return sum(len(points) for name in scalars for points in scalars[name].values())

    def points(self, seen: dict[tuple[str, int], int], most: int) -> ByRank:
        """Return the scalars' points that are not `seen`, and note in it that they are.

        Of more than `most` points only some are returned, evenly.
        """
        scalars = self._streamed.scalars()
        new = [
            (name, rank, seen.get((name, rank), 0), len(scalars[name][rank]))
            for name in scalars
            for rank in scalars[name]
        ]
        new = [row for row in new if row[3] > row[2]]
        found: ByRank = {}
        for name, rank, start, end in new:
            chosen = thinned(scalars[name][rank], start, end, max(2, most // len(new)))
            points = [[point.step, _number(point.value)] for point in chosen]
            found.setdefault(name, {})[str(rank)] = points
            seen[name, rank] = end
        return found

    def histograms(self, seen: dict[str, int]) -> ByRank:
        """Return the newest histograms of each name that changed since it was `seen`."""
        found: ByRank = {}
        for name in self._changed("histogram", seen):
            series = self._streamed[name]
            for rank in series:
                step, (counts, edges), _ = series[rank][-1]
                found.setdefault(name, {})[str(rank)] = [step, counts, edges]
            seen[name] = self._versions[name]
        return found

    def images(self, seen: dict[str, int]) -> ByRank:
        """Return the newest pictures of each name that changed since it was `seen`.

        They are drawn meanwhile: an image may be in a later answer than it was asked for.
        """
        found: ByRank = {}
        for name in self._changed("image", seen):
            self._draw(name)
            version, pictures = self._painter.drawn(name)
            if version != seen.get(name, 0):
                found[name] = pictures
                seen[name] = version
        return found

    @property
    def is_drawing(self) -> bool:
        """Whether pictures will be there soon."""
        return self._painter.is_busy

    def draw_all(self) -> None:
        """Draw what is not drawn, and wait a moment for it."""
        self._drawn_at.clear()
        for name in self._changed("image", {}):
            self._draw(name)
        self._painter.wait(_LAST_PICTURES)

    def _draw(self, name: str) -> None:
        now = time.monotonic()
        if now - self._drawn_at.get(name, 0.0) >= _PICTURE_EVERY:
            self._drawn_at[name] = now
            self._painter.draw(name, self._versions[name], self._streamed[name])

    def _changed(self, kind: str, seen: dict[str, int]) -> list[str]:
        return [
            name
            for name, version in self._versions.items()
            if version != seen.get(name, 0) and self._streamed[name].kind == kind
        ]


def thinned(points: Sequence[Point], start: int, end: int, most: int) -> list[Point]:
    """Return at most `most` of the points from `start` to `end`, evenly, the last with them.

    Examples
    --------
    >>> from accelnb.notebook.views.streamed_values import thinned
    >>> thinned(range(100), 0, 100, 4)
    [0, 33, 66, 99]
    """
    count = end - start
    if count <= most:
        return list(points[start:end])
    return [points[start + round(at * (count - 1) / (most - 1))] for at in range(most)]


def _number(value: float) -> float | str | None:
    """Return a number as JSON can have it."""
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else "inf" if value > 0 else "-inf"
