"""Lines that still grow: progress bars and unfinished prints, redrawn in place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from accelnb.notebook.views.area import NotebookArea, in_kernel

_MOST_LINES = 10

Key = tuple[int, str]  # rank, stream
Label = Callable[[Sequence[int]], str]  # what to write before a line of these ranks


class LiveText(Protocol):
    """Where growing lines are shown."""

    def has(self, key: Key) -> bool:
        """Return whether a line of this stream is shown and still grows."""
        ...

    def update(self, key: Key, text: str) -> None: ...

    def draw(self) -> None:
        """Show what was updated."""
        ...

    def finish(self, key: Key, text: str) -> bool:
        """Show a line's last state; return False if it is for the caller to print."""
        ...

    def make_way(self) -> None:
        """Let an ordinary line be printed next."""
        ...

    def cleared(self) -> None:
        """Take note that the cell's output was cleared."""
        ...

    def close(self) -> None: ...


def live_text(label: Label) -> LiveText:
    """Return what suits the front end: a display that is updated, or a terminal's last line."""
    return NotebookLines(label) if in_kernel() else TerminalLine(label)


class NotebookLines:
    """A display output that is updated in place; equal lines of several ranks are one.

    Finished lines stay in it until all of its lines are finished.
    """

    def __init__(self, label: Label) -> None:
        self._label = label
        self._growing: dict[Key, str] = {}
        self._finished: list[tuple[int, str]] = []
        self._area = NotebookArea()
        self._changed = False

    def has(self, key: Key) -> bool:
        return key in self._growing

    def update(self, key: Key, text: str) -> None:
        self._changed |= self._growing.get(key) != text
        self._growing[key] = text

    def draw(self) -> None:
        if not self._changed:
            return
        self._changed = False
        self._area.show("\n".join(self._lines()))
        if not self._growing:
            self._finished, self._area = [], NotebookArea()

    def finish(self, key: Key, text: str) -> bool:
        if self._growing.pop(key, None) is None:
            return False
        self._finished.append((key[0], text))
        self._changed = True
        if not self._growing:
            self.draw()
        return True

    def make_way(self) -> None:
        pass  # a display stays where it is

    def cleared(self) -> None:
        self._finished, self._changed = [], bool(self._growing)
        self._area.cleared()

    def close(self) -> None:
        self.draw()

    def _lines(self) -> list[str]:
        ranks_of: dict[str, list[int]] = {}
        growing = [(key[0], self._growing[key]) for key in sorted(self._growing)]
        for rank, text in [*self._finished, *growing]:
            if text.strip():
                ranks_of.setdefault(text, []).append(rank)
        lines = [self._label(sorted(set(ranks))) + text for text, ranks in ranks_of.items()]
        if len(lines) > _MOST_LINES:
            lines[_MOST_LINES:] = [f"... and {len(lines) - _MOST_LINES} more"]
        return lines


class TerminalLine:
    """The last line of a terminal, of which the lowest rank's growing line is shown."""

    def __init__(self, label: Label) -> None:
        self._label = label
        self._growing: dict[Key, str] = {}
        self._drawn = ""

    def has(self, key: Key) -> bool:
        return key in self._growing

    def update(self, key: Key, text: str) -> None:
        self._growing[key] = text

    def draw(self) -> None:
        first = min(self._growing, default=None)
        line = "" if first is None else self._label([first[0]]) + self._growing[first]
        if line != self._drawn and sys.stderr.isatty():
            self.make_way()
            sys.stderr.write(line)
            self._drawn = line

    def cleared(self) -> None:
        self._drawn = ""

    def finish(self, key: Key, text: str) -> bool:
        self._growing.pop(key, None)
        return False  # printed as an ordinary line above those that still grow

    def make_way(self) -> None:
        if self._drawn:
            sys.stderr.write("\r" + " " * len(self._drawn) + "\r")
            sys.stderr.flush()
            self._drawn = ""

    def close(self) -> None:
        self.make_way()
