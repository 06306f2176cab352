"""The lines of a run, merged over its ranks, of which only so many are kept."""

from __future__ import annotations

import collections
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from accelnb.engine.events import Display, Skipped, Stream
from accelnb.notebook.views.rank_merge import (
    HOLD,
    LONGEST_LINE,
    Item,
    Merger,
    Partial,
    label,
    left_out,
)

NEWEST = 5_000  # lines kept
_CHARACTERS = 2_000_000  # kept in them
_HEAD = 250  # of the first lines, kept for good
_HEAD_CHARACTERS = 100_000
# So much is put in order line by line; what ranks write beyond is skipped before that. A long
# line counts as several.
_BURST = 5_000
_A_SECOND = 5_000
_CHARACTERS_OF_LINE = 200


class Line(NamedTuple):
    """A line as it is shown; `number` counts all lines of the run, also those skipped.

    `stream` is ``stdout``, ``stderr``, ``value`` (what a cell's last expression gave) or
    ``note`` (said by accelnb).
    """

    number: int
    ranks: Sequence[int]
    stream: str
    text: str


class Log:
    """Takes what ranks write and display, and puts it in the order to show it in.

    Parameters
    ----------
    logs
        ``merged``, ``all`` or ``rank0``, see `accelnb.options.config.LaunchConfig`.
    folder
        Where the whole output is.
    """

    def __init__(self, ranks: Sequence[int], logs: str, folder: Path) -> None:
        self._first = min(ranks)
        self._only = self._first if logs == "rank0" else None
        self._folder = folder
        self._merger = Merger(ranks, merges=logs == "merged")
        self._arrived: collections.deque[tuple[float, Stream]] = collections.deque()
        self._weight = 0  # of what arrived
        self._allowed = float(_BURST)
        self._refreshed = time.monotonic()
        self._partial: dict[tuple[int, str], Partial] = collections.defaultdict(Partial)
        self._head: list[Line] = []
        self._newest: collections.deque[Line] = collections.deque()
        self._characters = self._head_characters = 0
        self._displays: list[tuple[Item, list[int]]] = []
        self._last: dict[int, str] = {}
        self.begin = 0  # the number of the first line since the output was cleared
        self.end = 0  # the number of the next line

    # ---- taking ----

    def take(self, event: Stream | Skipped | Display) -> None:
        if self._only not in (None, event.rank):
            return
        if isinstance(event, Stream):
            self._weight += _weight(event.text)
            self._arrived.append((time.monotonic(), event))
        elif isinstance(event, Skipped):
            self._read_arrived()
            self._partial.pop((event.rank, event.name), None)
            self._skip(event.lines, [event.rank])
        else:
            self._read_arrived()
            self._merger.add(event.rank, Item.of(event))

    def say(self, text: str, ranks: Sequence[int] = ()) -> None:
        """Add a line of our own."""
        self._add(ranks, "note", text)

    def refresh(self, now: float) -> None:
        """Put in order what arrived, as far as it was held long enough."""
        self._allowed += (now - self._refreshed) * _A_SECOND
        self._allowed = min(self._allowed, _BURST)
        self._refreshed = now
        if self._weight > self._allowed:
            self._skip_arrived()
        self._read_arrived()
        self._show_ready(now)

    def finish(self) -> None:
        """Show all that is left."""
        self.refresh(time.monotonic())
        for (rank, name), partial in list(self._partial.items()):
            if partial.text:
                self._finish_line(rank, name, "", time.monotonic())
        self._show_ready(float("inf"))

    # ---- showing ----

    def is_held(self, now: float) -> bool:
        """Return whether there is something that is to be shown soon."""
        if self._arrived or self._merger.is_waiting:
            return True
        return any(now - partial.since < 2 * HOLD for partial in self._partial.values())

    @property
    def start(self) -> int:
        """The number of the first line that is kept."""
        return self._newest[0].number if self._newest else self.end

    def displays(self) -> list[tuple[Item, list[int]]]:
        """Return the displays that are to be shown now, each with its ranks; each once."""
        displays, self._displays = self._displays, []
        return displays

    def since(self, number: int, most: int, characters: int) -> list[Line]:
        """Return the lines from `number` on, or the last of them if they are too many."""
        lines: list[Line] = []
        for line in reversed(self._newest):
            characters -= len(line.text)
            if line.number < number or len(lines) == most or (characters < 0 and lines):
                break
            lines.append(line)
        return lines[::-1]

    def growing(self, now: float) -> list[Line]:
        """Return the lines that are not finished, equal ones of several ranks once."""
        ranks_of: dict[str, list[int]] = {}
        for (rank, _), partial in sorted(self._partial.items()):
            if partial.text.strip() and now - partial.since >= HOLD:
                ranks_of.setdefault(partial.text.strip("\r"), []).append(rank)
        return [Line(self.end, sorted(set(r)), "stdout", text) for text, r in ranks_of.items()]

    def beginning_and_end(self, most: int) -> list[Line]:
        """Return all lines or, if there are more than `most`, the first and the last of them."""
        newest = self.since(0, most, _CHARACTERS)
        if not newest or not self._head or newest[0].number <= self._head[0].number:
            return newest
        head = self._head[: most // 2]
        tail = [line for line in newest[-(most // 2) :] if line.number > head[-1].number]
        more = tail[0].number - head[-1].number - 1 if tail else 0
        if more:
            head.append(Line(head[-1].number, (), "note", left_out(more, self._folder)))
        return head + tail

    def last_line(self, rank: int) -> str:
        """Return a rank's last line, also if it still grows."""
        for name in ("stdout", "stderr"):
            if (rank, name) in self._partial:
                return self._partial[rank, name].text.strip("\r")
        return self._last.get(rank, "")

    def labelled(self, lines: Iterable[Line]) -> list[str]:
        """Return lines as text, each with its ranks before it."""
        return [self.label(line.ranks) + line.text for line in lines]

    def label(self, ranks: Sequence[int]) -> str:
        return label(ranks) if self._only is None else ""

    # ---- inside ----

    def _read_arrived(self) -> None:
        while self._arrived:
            at, event = self._arrived.popleft()
            self._weight -= (weight := _weight(event.text))
            self._allowed -= weight
            self._read(at, event)

    def _read(self, at: float, event: Stream) -> None:
        *whole, rest = event.text.split("\n")
        for line in whole:
            self._finish_line(event.rank, event.name, line, at)
        if rest:
            self._partial[event.rank, event.name].add(rest, at)

    def _finish_line(self, rank: int, name: str, text: str, at: float) -> None:
        partial = self._partial.pop((rank, name), None)
        if partial or "\r" in text or len(text) > LONGEST_LINE:
            partial = partial or Partial()
            partial.add(text)
            text = partial.finished(self._folder)
        self._merger.add(rank, Item(name, text, at))

    def _skip_arrived(self) -> None:
        """Leave out the oldest of what arrived: the end of a flood is what matters."""
        skipped: collections.Counter[int] = collections.Counter()
        while self._weight > self._allowed and self._arrived:
            at, event = self._arrived.popleft()
            weight = _weight(event.text)
            self._weight -= weight
            dropped, kept = _cut(event.text, (self._allowed - self._weight) / weight)
            skipped[event.rank] += dropped.count("\n")
            self._partial.pop((event.rank, event.name), None)
            if kept:
                self._weight += _weight(kept)
                self._arrived.appendleft((at, Stream(event.rank, event.name, kept)))
                break
            if rest := dropped.rpartition("\n")[2]:
                self._partial[event.rank, event.name].add(rest)
        self._skip(sum(skipped.values()), sorted(skipped))

    def _skip(self, lines: int, ranks: Sequence[int]) -> None:
        if not lines:
            return
        self._show_ready(float("inf"))
        self.end += lines - 1  # the note stands for them
        self._add(ranks, "note", left_out(lines, self._folder))

    def _show_ready(self, now: float) -> None:
        for item, ranks in self._merger.ready(now):
            if item.name in ("stdout", "stderr"):
                self._add(ranks, item.name, item.body)
            elif item.body[0] and set(item.body[0]) == {"text/plain"} and not item.transient:
                for text in _value_lines(item.body[0]["text/plain"], len(ranks)):
                    self._add(ranks, "value", text)
            elif item.name != "clear_output":
                self._displays.append((item, ranks))
            elif self._first in ranks:
                self._clear()
                self._displays.append((item, ranks))

    def _clear(self) -> None:
        """Forget the lines so far: the lowest rank cleared the cell's output."""
        self._head, self._head_characters = [], 0
        self._newest.clear()
        self._characters = 0
        self.begin = self.end

    def _add(self, ranks: Sequence[int], stream: str, text: str) -> None:
        line = Line(self.end, ranks, stream, text)
        self.end += 1
        if len(self._head) < _HEAD and self._head_characters < _HEAD_CHARACTERS:
            self._head.append(line)
            self._head_characters += len(text)
        self._newest.append(line)
        self._characters += len(text)
        while len(self._newest) > NEWEST or self._characters > _CHARACTERS:
            self._characters -= len(self._newest.popleft().text)
        if stream != "note":
            self._last.update(dict.fromkeys(ranks, text))


def _weight(text: str) -> int:
    return 1 + text.count("\n") + len(text) // _CHARACTERS_OF_LINE


def _cut(text: str, share: float) -> tuple[str, str]:
    """Return `text` in two, of which the second are whole lines: at most that share of it."""
    end = text.find("\n", int(len(text) * (1 - max(0.0, share)))) + 1
    return (text[:end], text[end:]) if end else (text, "")


def _value_lines(text: str, ranks: int) -> Iterator[str]:
    lines = text.split("\n")
    if len(lines) > 1 and ranks:
        yield ""  # the label has a line of its own, so that what is aligned stays so
    yield from lines
