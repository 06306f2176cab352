"""A run shown as plain text and displays: in a notebook, a terminal, or headless.

Every line carries its ranks. A line that all ranks print is shown once, ``[0-1] epoch 3``; to
see whether the others print it too, a line is held for a moment.
"""

from __future__ import annotations

import collections
import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from IPython.core.getipython import get_ipython
from IPython.display import clear_output, publish_display_data

from accelnb.engine.events import Display, Event, Skipped, Stalled, Stream, Streamed
from accelnb.engine.failure import RunInterrupted, rank_list
from accelnb.engine.run import Run
from accelnb.notebook.views.area import in_kernel
from accelnb.notebook.views.board import Board
from accelnb.notebook.views.live_text import LiveText, live_text
from accelnb.notebook.views.tail import Tail

# A line waits this long (s) for the same line of other ranks, unless so many wait behind it.
_HOLD = 0.15
_WAITING = 5_000
_LOOK_AHEAD = 50
_FLUSH_EVERY = 0.1
_REDRAW_EVERY = 0.5
# What a notebook's document gets line by line; from there on only the last lines are shown.
_HEAD_LINES = 2_000
_HEAD_CHARACTERS = 400_000
_LONGEST_LINE = 10_000


@dataclass
class _Item:
    """A line, or a display, of one rank."""

    name: str  # stdout, stderr or a display message's type
    body: Any
    at: float
    transient: dict[str, Any] = field(default_factory=dict)

    def same_as(self, other: _Item) -> bool:
        if self is other:
            return True
        same = self.name == other.name and self.body == other.body
        return same and not self.transient and not other.transient


@dataclass
class _Partial:
    """The unfinished line of one rank's stream, and how much of it is left out."""

    text: str = ""
    since: float = 0.0
    more: int = 0

    def add(self, text: str) -> None:
        """Append `text`; after a carriage return it overwrites, as in a terminal."""
        text = self.text + text
        if "\r" in text.rstrip("\r"):
            ends = "\r" if text.endswith("\r") else ""
            text = text.rstrip("\r").rpartition("\r")[2] + ends
            self.more = 0
        self.text = text[:_LONGEST_LINE]
        self.more += len(text) - len(self.text)


class PlainView:
    """Shows the events of one run as they come.

    Parameters
    ----------
    logs
        ``merged``, ``all`` or ``rank0``, see `accelnb.config.LaunchConfig`.
    """

    def __init__(self, run: Run, logs: str) -> None:
        self._run = run
        self._ranks: Sequence[int] = run.ranks
        self._merges = logs == "merged" and len(self._ranks) > 1
        self._only = min(run.ranks) if logs == "rank0" else None
        # By stream, for what ranks write to stderr is in no order with their stdout.
        self._waiting = {
            name: {rank: collections.deque[_Item]() for rank in self._ranks}
            for name in ("stdout", "stderr")
        }
        self._partial: dict[tuple[int, str], _Partial] = collections.defaultdict(_Partial)
        self._live: LiveText = live_text(self._label)
        self._flushed_at = 0.0
        self._redrawn_at = 0.0
        self._written: set[TextIO] = set()
        self._board = Board(run.streamed, self._label)
        self._tail: Tail | None = None
        self._lines_left = _HEAD_LINES
        self._characters_left = _HEAD_CHARACTERS

    def show(self, event: Event) -> None:
        if isinstance(event, Stalled):
            self._say(event.report)
        elif event.rank not in self._ranks or self._only not in (None, event.rank):
            return
        elif isinstance(event, Streamed):
            self._board.changed(event.names)
        elif isinstance(event, Skipped):
            self._skip(event)
        elif isinstance(event, Stream):
            self._take_text(event)
        else:
            self._take_display(event)
        self._emit_ready(time.monotonic())

    def tick(self) -> float:
        """Show what was held long enough; return the seconds until there may be more."""
        now = time.monotonic()
        self._emit_ready(now)
        if now - self._flushed_at >= _FLUSH_EVERY:
            self._show_partials(now)
            self._flush()
            self._flushed_at = now
        if now - self._redrawn_at >= _REDRAW_EVERY:
            self._board.draw()
            if self._tail is not None:
                self._tail.draw()
            self._redrawn_at = now
        held = any(items for lane in self._waiting.values() for items in lane.values())
        held = held or any(partial.text for partial in self._partial.values())
        return _FLUSH_EVERY / 2 if held else 10.0

    def close(self) -> None:
        """Show all that is left."""
        for (rank, name), partial in list(self._partial.items()):
            if partial.text:
                self._finish_line(rank, name, "")
        self._emit_ready(float("inf"))
        self._live.close()
        self._flush()
        if self._tail is not None:
            self._tail.close()
        self._board.close()
        if self._run.log.problem:
            self._say(self._run.log.problem)
        self._flush()

    # ---- taking ----

    def _take_text(self, event: Stream) -> None:
        if self._tail is not None:
            self._tail.add((event.rank, event.name), event.text)
            return
        at = 0
        while (end := event.text.find("\n", at)) >= 0:
            self._finish_line(event.rank, event.name, event.text[at:end])
            at = end + 1
            if self._lines_left <= 0 or self._characters_left <= 0:
                self._begin_tail()
                self._take_text(Stream(event.rank, event.name, event.text[at:]))
                return
        if at < len(event.text):
            partial = self._partial[event.rank, event.name]
            partial.since = partial.since if partial.text else time.monotonic()
            partial.add(event.text[at:])

    def _finish_line(self, rank: int, name: str, line: str) -> None:
        partial = self._partial.pop((rank, name), _Partial())
        partial.add(line)
        text = partial.text.rstrip("\r")
        if partial.more:
            text += f" [... {partial.more:,} more characters, in full in {self._run.log.folder}]"
        self._lines_left -= 1
        self._characters_left -= len(text)
        # A line that was shown while it grew, such as a progress bar, stays where it is.
        if not self._live.finish((rank, name), text):
            self._waiting[name][rank].append(_Item(name, text, time.monotonic()))

    def _begin_tail(self) -> None:
        """From here on show the end of the output only."""
        if not in_kernel():
            self._lines_left, self._characters_left = _HEAD_LINES, _HEAD_CHARACTERS
            return
        self._emit_ready(float("inf"))
        self._tail = Tail(self._label, self._run.log.folder)
        for key, partial in self._partial.items():
            self._tail.add(key, partial.text)
        self._partial.clear()
        self._flush()

    def _skip(self, event: Skipped) -> None:
        if self._tail is not None:
            self._tail.skip(event.lines)
            return
        said = f"[... {event.lines:,} more lines, in full in {self._run.log.folder}]"
        self._finish_line(event.rank, event.name, "")
        self._finish_line(event.rank, event.name, said)

    def _take_display(self, event: Display) -> None:
        content = event.content
        body = (content.get("data"), content.get("metadata"), content.get("wait"))
        transient = content.get("transient") or {}
        if display_id := transient.get("display_id"):
            transient = {"display_id": f"rank{event.rank}-{display_id}"}
        item = _Item(event.kind, body, time.monotonic(), transient)
        self._waiting["stdout"][event.rank].append(item)

    # ---- showing ----

    def _emit_ready(self, now: float) -> None:
        for lane in self._waiting.values():
            while (ranks := self._next_of(lane, now)) is not None:
                items = [lane[rank].popleft() for rank in ranks]
                self._emit(items[0], ranks)

    def _next_of(self, lane: Mapping[int, Sequence[_Item]], now: float) -> list[int] | None:
        """Return the ranks whose next item, the same for all of them, is to be shown now."""
        heads = {rank: items[0] for rank, items in lane.items() if items}
        if not heads:
            return None
        if not self._merges:
            return [min(heads, key=lambda rank: heads[rank].at)]
        first = heads[min(heads)]
        if len(heads) == len(self._ranks) and all(first.same_as(h) for h in heads.values()):
            return sorted(heads)
        due = now - _HOLD
        if all(head.at > due and len(lane[rank]) < _WAITING for rank, head in heads.items()):
            return None
        # What others have yet to show too goes after what they show before it.
        alone = {rank: head for rank, head in heads.items() if not _comes_later(head, rank, lane)}
        pool = {rank: head for rank, head in (alone or heads).items() if head.at <= due + _HOLD / 2}
        pool = pool or heads
        every = len(heads) == len(self._ranks)
        chosen = pool[min(pool) if every else min(pool, key=lambda rank: pool[rank].at)]
        return sorted(rank for rank, head in heads.items() if head.same_as(chosen))

    def _emit(self, item: _Item, ranks: Sequence[int]) -> None:
        label = self._label(ranks)
        if item.name in ("stdout", "stderr"):
            self._live.make_way()
            stream = sys.stdout if item.name == "stdout" else sys.stderr
            self._write(stream, f"{label}{item.body}\n")
            return
        data, metadata, wait = item.body
        if item.name == "clear_output":
            if self._ranks[0] in ranks:
                self._clear(bool(wait))
            return
        self._live.make_way()
        is_update = item.name == "update_display_data"
        if set(data) == {"text/plain"} or get_ipython() is None:
            text = data.get("text/plain", "")
            newline = "\n" if "\n" in text and label else ""
            text = f"{label.rstrip() if newline else label}{newline}{text}"
            if item.transient and in_kernel():
                self._publish({"text/plain": text}, metadata, item.transient, is_update)
            else:
                self._write(sys.stdout, f"{text}\n")
            return
        if label and not is_update:
            self._write(sys.stdout, f"{label.rstrip()}\n")
        self._publish(data, metadata, item.transient, is_update)

    def _publish(self, data: Any, metadata: Any, transient: Any, update: bool) -> None:
        self._flush()
        publish_display_data(data, metadata, transient=transient, update=update)

    def _clear(self, wait: bool) -> None:
        self._flush()
        clear_output(wait)
        for part in (self._live, self._board, self._tail):
            if part is not None:
                part.cleared()

    def _show_partials(self, now: float) -> None:
        for (rank, name), partial in self._partial.items():
            if partial.text and (now - partial.since >= _HOLD or self._live.has((rank, name))):
                self._live.update((rank, name), partial.text)
        self._live.draw()

    def _write(self, stream: TextIO, text: str) -> None:
        stream.write(text)
        self._written.add(stream)

    def _say(self, text: str) -> None:
        self._live.make_way()
        self._write(sys.stderr, f"accelnb: {text}\n")

    def _flush(self) -> None:
        """Flush what was written to: a flush in a kernel waits for its output thread."""
        for stream in self._written:
            stream.flush()
        self._written.clear()

    def _label(self, ranks: Sequence[int]) -> str:
        return "" if self._only is not None else f"[{rank_list(ranks)}] "


def _comes_later(item: _Item, rank: int, lane: Mapping[int, Sequence[_Item]]) -> bool:
    """Return whether another rank shows the same item behind others."""
    return any(
        item.same_as(later)
        for other, items in lane.items()
        if other != rank
        for later in itertools.islice(items, 1, _LOOK_AHEAD)
    )


def follow(run: Run, view: PlainView) -> None:
    """Show a run until it is over, then raise what it ended with.

    Ctrl-C, or the stop button, stops the ranks; pressed again it no longer waits for them.
    """
    try:
        _show_all(run, view)
    except KeyboardInterrupt:
        run.interrupt()
        try:
            _show_all(run, view)
        except KeyboardInterrupt:
            raise RunInterrupted("the ranks are still being stopped") from None
    finally:
        run.abandon()
        view.close()
    run.raise_if_failed()


def _show_all(run: Run, view: PlainView) -> None:
    patience = 10.0
    while not run.finished:
        event = run.next_event(patience)
        if event is not None:
            view.show(event)
        patience = view.tick()
