"""What is shown of a flood: how many lines there were, and the last ones."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from pathlib import Path

from accelnb.notebook.views.rank_merge import left_out
from accelnb.notebook.views.updated_display import new_area

_LINES = 30
_CHARACTERS = 8_000  # kept of a stream's end, enough for its last lines
_LONGEST_LINE = 200

Key = tuple[int, str]  # rank, stream


class Tail:
    """Takes text that is no longer shown line by line; its end is redrawn in place.

    Parameters
    ----------
    label
        Gives what to write before a line of some ranks.
    whole
        The folder where the whole output is.
    """

    def __init__(self, label: Callable[[Sequence[int]], str], whole: Path) -> None:
        self._label = label
        self._whole = whole
        self._ends: dict[Key, str] = collections.defaultdict(str)
        self._lines = self._shown = 0
        self._area = new_area()

    def add(self, key: Key, text: str) -> None:
        self._lines += text.count("\n")
        self._ends[key] = (self._ends[key] + text[-_CHARACTERS:])[-_CHARACTERS:]

    def skip(self, lines: int) -> None:
        self._lines += lines

    def draw(self) -> None:
        self._area.show("\n".join(self.lines()))

    def cleared(self) -> None:
        self._area.cleared()

    def close(self) -> None:
        self.draw()
        self._area.close()

    def lines(self) -> list[str]:
        """Return the last lines, below how many there were before."""
        last = self._last_lines()
        before = self._lines - self._shown
        return [left_out(before, self._whole), *last] if before > 0 else last

    def _last_lines(self) -> list[str]:
        """Return the streams' last lines, counted from the end; equal ones of ranks once."""
        most = max(3, _LINES // max(1, len(self._ends)))
        ends = {key: _whole_lines(text)[-most:] for key, text in self._ends.items()}
        self._shown = sum(map(len, ends.values()))
        shown = []
        for back in range(most, 0, -1):
            ranks: dict[str, list[int]] = {}
            for (rank, _), lines in sorted(ends.items()):
                if len(lines) >= back:
                    ranks.setdefault(lines[-back], []).append(rank)
            shown += [self._label(sorted(set(r))) + _shorten(line) for line, r in ranks.items()]
        return shown


def _shorten(line: str) -> str:
    return line if len(line) <= _LONGEST_LINE else line[: _LONGEST_LINE - 3] + "..."


def _whole_lines(text: str) -> list[str]:
    lines = text.split("\n")
    if len(text) == _CHARACTERS:
        lines = lines[1:]  # its beginning was cut off
    if lines and not lines[-1]:
        lines = lines[:-1]
    return [line.rstrip("\r").rpartition("\r")[2] for line in lines]
