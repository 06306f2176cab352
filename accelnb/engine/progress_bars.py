"""The progress bars of ranks as a run knows them."""

from __future__ import annotations

import collections
from dataclasses import dataclass

from accelnb.engine.wire.reports import Bar


@dataclass(frozen=True)
class Progress:
    """Progress bars of a rank changed; each in its newest state."""

    rank: int
    bars: tuple[Bar, ...]


class OpenBars:
    """Remembers the bars that go on, to tell a step from a mere redraw.

    Examples
    --------
    >>> from accelnb.engine.progress_bars import OpenBars, Progress
    >>> from accelnb.engine.wire.reports import Bar
    >>> bars = OpenBars()
    >>> bar = Bar("#1", "", 1, 3, "it", None, "1/3 [00:01]", closed=False)
    >>> bars.moved(Progress(0, (bar,)))
    True
    >>> bars.moved(Progress(0, (bar._replace(text="1/3 [00:02]"),)))
    False
    """

    def __init__(self) -> None:
        self._open: dict[int, dict[str, Bar]] = collections.defaultdict(dict)

    def moved(self, told: Progress) -> bool:
        """Take note of what a rank tells; return whether any of its bars moved."""
        moved = False
        for bar in told.bars:
            before = self._open[told.rank].pop(bar.key, None)
            moved |= before is None or bar.closed or before.done != bar.done
            if not bar.closed:
                self._open[told.rank][bar.key] = bar
        return moved

    def left_by(self, rank: int) -> list[str]:
        """Return the texts of bars that a rank that ended had not closed."""
        return [bar.text for bar in self._open.pop(rank, {}).values()]
