"""The progress bars of ranks as a run knows them."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

from accelnb.engine.events import Bar, Progress


class OpenBars:
    """Remembers the bars that go on, to tell a step from a mere redraw.

    Examples
    --------
    >>> from accelnb.engine.progress_bars import OpenBars
    >>> bars = OpenBars()
    >>> told = {"key": "#1", "label": "", "done": 1, "total": 3, "unit": "it", "rate": None}
    >>> progress, moved = bars.take(0, [told | {"text": "1/3 [00:01]", "closed": False}])
    >>> progress.bars[0].done, moved
    (1, True)
    >>> bars.take(0, [told | {"text": "1/3 [00:02]", "closed": False}])[1]
    False
    """

    def __init__(self) -> None:
        self._open: dict[int, dict[str, Bar]] = collections.defaultdict(dict)

    def take(self, rank: int, told: Sequence[dict[str, Any]]) -> tuple[Progress, bool]:
        """Return what a rank's message says, and whether any of its bars moved."""
        bars = tuple(Bar(**bar) for bar in told)
        moved = False
        for bar in bars:
            before = self._open[rank].pop(bar.key, None)
            moved |= before is None or bar.closed or before.done != bar.done
            if not bar.closed:
                self._open[rank][bar.key] = bar
        return Progress(rank, bars), moved

    def left_by(self, rank: int) -> list[str]:
        """Return the texts of bars that a rank that ended had not closed."""
        return [bar.text for bar in self._open.pop(rank, {}).values()]
