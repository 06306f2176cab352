"""Lines that still grow: progress bars and unfinished prints, redrawn in place."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence

from accelnb.notebook.views.updated_display import NotebookArea, in_kernel

_MOST_LINES = 10
_MOST_FINISHED = 100  # kept while others still grow

Key = tuple[int, str]  # rank, and its stream or progress bar
Label = Callable[[Sequence[int]], str]  # what to write before a line of these ranks


class NotebookLines:
    """A display output that is updated in place; equal lines of several ranks are one.

    Finished lines stay in it until all of its lines are finished. Lines are in the order in which
    they began, as nested progress bars are.
    """

    def __init__(self, label: Label) -> None:
        self._label = label
        self._growing: dict[Key, str] = {}
        self._finished: dict[tuple[str, str], set[int]] = {}  # ranks by name and text
        self._place: dict[str, int] = {}  # of a name among the lines
        self._left_out = 0
        self._area = NotebookArea()
        self._changed = False

    def has(self, key: Key) -> bool:
        """Return whether this line is shown and still grows."""
        return key in self._growing

    def update(self, key: Key, text: str) -> None:
        self._place.setdefault(key[1], len(self._place))
        self._changed |= self._growing.get(key) != text
        self._growing[key] = text

    def draw(self) -> None:
        """Show what was updated."""
        if not self._changed:
            return
        self._changed = False
        self._area.show("\n".join(self._lines()))
        if not self._growing:
            self._forget_finished()
            self._area = NotebookArea()

    def finish(self, key: Key, text: str) -> bool:
        """Show a line's last state; return False if it is for the caller to print."""
        rank, name = key
        if self._growing.pop(key, None) is None:
            return False
        self._finished.setdefault((name, text), set()).add(rank)
        if len(self._finished) > _MOST_FINISHED:
            self._finished.pop(next(iter(self._finished)))
            self._left_out += 1
        self._changed = True
        if not self._growing:
            self.draw()
        return True

    def drop(self, key: Key) -> None:
        """Leave out a line of which nothing is to stay."""
        self._changed |= self._growing.pop(key, None) is not None

    def make_way(self) -> None:
        """Let an ordinary line be printed next: a display stays where it is."""

    def cleared(self) -> None:
        """Take note that the cell's output was cleared."""
        self._forget_finished()
        self._changed = bool(self._growing)
        self._area.cleared()

    def close(self) -> None:
        self.draw()

    def _forget_finished(self) -> None:
        self._finished, self._left_out = {}, 0
        self._place = {name: place for place, (_, name) in enumerate(self._growing)}

    def _lines(self) -> list[str]:
        ranks_of: dict[tuple[str, str], set[int]] = {}
        for (rank, name), text in self._growing.items():
            ranks_of.setdefault((name, text), set()).add(rank)
        room = max(0, _MOST_LINES - len(ranks_of))
        kept = list(self._finished)[-room:] if room else []
        for line in kept:
            ranks_of[line] = ranks_of.get(line, set()) | self._finished[line]

        def place(line: tuple[str, str]) -> tuple[int, int]:
            return self._place.get(line[0], 0), min(ranks_of[line])

        lines = [
            self._label(sorted(ranks_of[line])) + line[1]
            for line in sorted(ranks_of, key=place)
            if line[1].strip()
        ]
        more = len(self._finished) - len(kept) + self._left_out + len(lines[_MOST_LINES:])
        return [*lines[:_MOST_LINES], f"... and {more} more"] if more else lines


class TerminalLine:
    """The last line of a terminal: what the lowest rank began last of all that grows.

    It has the methods of `NotebookLines`.
    """

    def __init__(self, label: Label) -> None:
        self._label = label
        self._growing: dict[Key, str] = {}
        self._drawn = ""

    def has(self, key: Key) -> bool:
        return key in self._growing

    def update(self, key: Key, text: str) -> None:
        self._growing[key] = text

    def draw(self) -> None:
        line = self._line()
        if line != self._drawn and sys.stderr.isatty():
            self.make_way()
            sys.stderr.write(line)
            self._drawn = line

    def _line(self) -> str:
        if not self._growing:
            return ""
        lowest = min(rank for rank, _ in self._growing)
        text = [text for (rank, _), text in self._growing.items() if rank == lowest][-1]
        ranks = sorted({rank for (rank, _), other in self._growing.items() if other == text})
        # What does not fit into one line could not be taken back.
        return (self._label(ranks) + text)[: shutil.get_terminal_size().columns - 1]

    def cleared(self) -> None:
        self._drawn = ""

    def finish(self, key: Key, text: str) -> bool:
        self._growing.pop(key, None)
        return False  # printed as an ordinary line above those that still grow

    def drop(self, key: Key) -> None:
        self._growing.pop(key, None)

    def make_way(self) -> None:
        if self._drawn:
            sys.stderr.write("\r" + " " * len(self._drawn) + "\r")
            sys.stderr.flush()
            self._drawn = ""

    def close(self) -> None:
        self.make_way()


def growing_lines(label: Label) -> NotebookLines | TerminalLine:
    """Return what suits the front end: a display that is updated, or a terminal's last line."""
    return NotebookLines(label) if in_kernel() else TerminalLine(label)
