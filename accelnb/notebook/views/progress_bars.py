"""The ranks' progress bars, those of ranks that run the same code as one.

`Bars` is for a view that draws bars, `BarLines` for one that shows them as lines of text.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from accelnb.engine.progress_bars import Progress
from accelnb.engine.wire.reports import Bar

_CLOSED_KEPT = 50
_TIMES = re.compile(r"\d+:[\d:]+|[\d.?]+[^\s\d,\]]*/[^\s\d,\]]+")  # 00:03, 2.5it/s, 1.2s/it

_Key = tuple[str, float | None]  # what ranks that run the same code call a bar, and its total


class Bars:
    """Takes the states of all ranks' bars.

    Examples
    --------
    >>> from accelnb.engine.progress_bars import Progress
    >>> from accelnb.engine.wire.reports import Bar
    >>> from accelnb.notebook.views.progress_bars import Bars
    >>> bars = Bars()
    >>> for rank, done in enumerate((5, 4)):
    ...     bar = Bar("#1", "train", done, 9, "it", 2.0, f"{done}/9", closed=False)
    ...     bars.take(Progress(rank, (bar,)))
    >>> [(bar["label"], bar["done"], bar["by_rank"]) for bar in bars.merged()]
    [('train', 4, {'0': 5, '1': 4})]
    """

    def __init__(self) -> None:
        self._of: dict[_Key, dict[int, Bar]] = {}
        self._kept_as: dict[tuple[int, str], _Key] = {}  # by rank and the bar's own key
        self._newest: dict[int, Bar] = {}  # of each rank, that which changed last

    def __bool__(self) -> bool:
        return bool(self._of)

    def take(self, event: Progress) -> None:
        for bar in event.bars:
            key = (bar.key, bar.total)
            before = self._kept_as.pop((event.rank, bar.key), None)
            leaves_nothing = bar.closed and not bar.text
            if before is not None and (leaves_nothing or before != key):
                self._forget(event.rank, before)
            if leaves_nothing:
                continue
            self._kept_as[event.rank, bar.key] = key
            self._of.setdefault(key, {})[event.rank] = bar
            self._newest[event.rank] = bar
        self._forget_oldest()

    def newest(self, rank: int) -> Bar | None:
        return self._newest.get(rank)

    def merged(self, is_over: bool = False) -> list[dict[str, Any]]:
        """Return each bar as the front end reads it: as far as the rank that is behind."""
        return [_merged(key, of, is_over) for key, of in self._of.items()]

    def lines(self) -> list[tuple[list[int], str]]:
        """Return each bar's ranks and what a terminal would show of the one that is behind."""
        return [(sorted(of), _behind(of.values()).text) for of in self._of.values()]

    def _forget(self, rank: int, key: _Key) -> None:
        self._of.get(key, {}).pop(rank, None)
        if not self._of.get(key, True):
            del self._of[key]

    def _forget_oldest(self) -> None:
        closed = [key for key, of in self._of.items() if all(bar.closed for bar in of.values())]
        for key in closed[: max(0, len(closed) - _CLOSED_KEPT)]:
            del self._of[key]


class BarLines:
    """Gives equal bars of several ranks the same text, so that they are shown as one line.

    While they go on that is the text of the one that is behind. At the end those have the same
    text that differ in their times only.

    Parameters
    ----------
    merges
        Whether to do so; if not, each bar keeps its own text.

    Examples
    --------
    >>> from accelnb.engine.wire.reports import Bar
    >>> from accelnb.notebook.views.progress_bars import BarLines
    >>> lines = BarLines(merges=True)
    >>> for rank, done in enumerate((5, 4)):
    ...     lines.take(rank, Bar("#1", "", done, 9, "it", None, f"{done}/9", closed=False))
    >>> list(lines.growing())
    [((0, '#1'), '4/9'), ((1, '#1'), '4/9')]
    """

    def __init__(self, merges: bool) -> None:
        self._merges = merges
        self.changed = False  # since `growing` was asked
        self._open: dict[tuple[int, str], Bar] = {}  # by rank and the bar's key
        self._last: dict[tuple[str, float, float | None, str], str] = {}

    def goes_on_beside(self, rank: int, bar: Bar) -> bool:
        """Return whether the rank has other bars that go on, or others have this one."""
        return any(other == rank or key == bar.key for other, key in self._open)

    def take(self, rank: int, bar: Bar) -> None:
        """Take note of a bar that goes on."""
        self._open[rank, bar.key] = bar
        self.changed = True

    def growing(self) -> Iterator[tuple[tuple[int, str], str]]:
        """Give the text of each bar that goes on."""
        self.changed = False
        same: dict[_Key, list[Bar]] = collections.defaultdict(list)
        for bar in self._open.values():
            same[bar.key, bar.total].append(bar)
        for place, bar in self._open.items():
            yield place, (_behind(same[bar.key, bar.total]) if self._merges else bar).text

    def end(self, rank: int, bar: Bar) -> str:
        """Return the text that a bar ends with; empty if nothing of it stays."""
        self._open.pop((rank, bar.key), None)
        if not bar.text or not self._merges:
            return bar.text
        same = (bar.key, bar.done, bar.total, _TIMES.sub("", bar.text))
        return self._last.setdefault(same, bar.text)


def _behind(bars: Iterable[Bar]) -> Bar:
    return min(bars, key=lambda bar: bar.done)


def _merged(key: _Key, of: dict[int, Bar], is_over: bool) -> dict[str, Any]:
    bars = list(of.values())
    rates = [bar.rate for bar in bars if bar.rate is not None and math.isfinite(bar.rate)]
    total = bars[0].total
    return {
        "key": "/".join(map(str, key)),
        "ranks": sorted(of),
        "label": bars[0].label,
        "done": min(_finite(bar.done) for bar in bars),
        "total": total if total is not None and math.isfinite(total) else None,
        "unit": bars[0].unit,
        "rate": sum(rates) / len(rates) if rates else None,
        "closed": is_over or all(bar.closed for bar in bars),
        "by_rank": {str(rank): _finite(of[rank].done) for rank in sorted(of)},
    }


def _finite(number: float) -> float:
    return number if math.isfinite(number) else 0
