"""The ranks' progress bars, those of ranks that run the same code as one."""

from __future__ import annotations

import math
from typing import Any

from accelnb.engine.events import Bar, Progress

_CLOSED_KEPT = 50

_Key = tuple[str, float | None]  # what ranks that run the same code call a bar, and its total


class Bars:
    """Takes the states of all ranks' bars.

    Examples
    --------
    >>> from accelnb.engine.events import Bar, Progress
    >>> from accelnb.notebook.views.bars import Bars
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
        return [
            (sorted(of), min(of.values(), key=lambda bar: bar.done).text)
            for of in self._of.values()
        ]

    def _forget(self, rank: int, key: _Key) -> None:
        self._of.get(key, {}).pop(rank, None)
        if not self._of.get(key, True):
            del self._of[key]

    def _forget_oldest(self) -> None:
        closed = [key for key, of in self._of.items() if all(bar.closed for bar in of.values())]
        for key in closed[: max(0, len(closed) - _CLOSED_KEPT)]:
            del self._of[key]


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
