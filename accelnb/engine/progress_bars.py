"""The progress bars of ranks as a rank tells them and a run knows them."""

from __future__ import annotations

import collections
from dataclasses import dataclass
from typing import NamedTuple


class Bar(NamedTuple):
    """The state of one progress bar of a rank.

    Attributes
    ----------
    key : str
        Stands for the bar on its rank.
    label : str
        What the bar says it is for; empty if it does not.
    done, total : float
        How far it is and where it ends, in units; `total` is None if that is not known.
    unit : str
        Such as ``it`` or ``B``.
    rate : float or None
        Units per second.
    text : str
        The whole bar as a terminal shows it.
    closed : bool
        Whether this is its last state.
    """

    key: str
    label: str
    done: float
    total: float | None
    unit: str
    rate: float | None
    text: str
    closed: bool

    def same_progress(self, other: Bar) -> bool:
        return (self.label, self.done, self.total) == (other.label, other.done, other.total)


@dataclass(frozen=True)
class Progress:
    """Progress bars of a rank changed; each in its newest state."""

    rank: int
    bars: tuple[Bar, ...]


class OpenBars:
    """Remembers the bars that go on, to tell a step from a mere redraw.

    Examples
    --------
    >>> from accelnb.engine.progress_bars import Bar, OpenBars, Progress
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
