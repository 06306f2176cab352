"""Progress bars as lines of text: one line for what ranks do alike."""

from __future__ import annotations

import re
from collections.abc import Iterator

from accelnb.engine.events import Bar

Key = tuple[int, str]  # rank, and what stands for the bar there

_TIMES = re.compile(r"\d+:[\d:]+|[\d.?]+[^\s\d,\]]*/[^\s\d,\]]+")  # 00:03, 2.5it/s, 1.2s/it


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
    >>> from accelnb.engine.events import Bar
    >>> from accelnb.notebook.views.bar_lines import BarLines
    >>> lines = BarLines(merges=True)
    >>> for rank, done in enumerate((5, 4)):
    ...     lines.take(rank, Bar("#1", "", done, 9, "it", None, f"{done}/9", closed=False))
    >>> list(lines.growing())
    [((0, '#1'), '4/9'), ((1, '#1'), '4/9')]
    """

    def __init__(self, merges: bool) -> None:
        self._merges = merges
        self.changed = False  # since `growing` was asked
        self._open: dict[Key, Bar] = {}
        self._last: dict[tuple[str, float, float | None, str], str] = {}

    def goes_on_beside(self, rank: int, bar: Bar) -> bool:
        """Return whether the rank has other bars that go on, or others have this one."""
        return any(other == rank or key == bar.key for other, key in self._open)

    def take(self, rank: int, bar: Bar) -> None:
        """Take note of a bar that goes on."""
        self._open[rank, bar.key] = bar
        self.changed = True

    def growing(self) -> Iterator[tuple[Key, str]]:
        """Give the text of each bar that goes on."""
        self.changed = False
        behind: dict[tuple[str, float | None], Bar] = {}
        for (_, key), bar in self._open.items():
            other = behind.setdefault((key, bar.total), bar)
            if bar.done < other.done:
                behind[key, bar.total] = bar
        for (rank, key), bar in self._open.items():
            shown = behind[key, bar.total] if self._merges else bar
            yield (rank, key), shown.text

    def end(self, rank: int, bar: Bar) -> str:
        """Return the text that a bar ends with; empty if nothing of it stays."""
        self._open.pop((rank, bar.key), None)
        if not bar.text or not self._merges:
            return bar.text
        same = (bar.key, bar.done, bar.total, _TIMES.sub("", bar.text))
        return self._last.setdefault(same, bar.text)
