"""A run shown as plain text and displays: in a notebook, a terminal, or headless.

Every line carries its ranks. A line that all ranks print is shown once, ``[0-1] epoch 3``; to
see whether the others print it too, a line is held for a moment.
"""

from __future__ import annotations

import collections
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

from IPython.core.getipython import get_ipython
from IPython.display import clear_output, publish_display_data

from accelnb.engine.events import Display, Event, Progress, Skipped, Stalled, Stream, Streamed
from accelnb.engine.run import Run
from accelnb.notebook.views.metrics_board import Board
from accelnb.notebook.views.progress_bars import BarLines
from accelnb.notebook.views.rank_merge import HOLD, Item, Merger, Partial, label, left_out
from accelnb.notebook.views.text_view.growing_lines import growing_lines
from accelnb.notebook.views.text_view.tail import Tail
from accelnb.notebook.views.updated_display import in_kernel

_FLUSH_EVERY = 0.1
_REDRAW_EVERY = 0.5
# What a notebook's document gets line by line; from there on only the last lines are shown.
_HEAD_LINES = 2_000
_HEAD_CHARACTERS = 400_000


class PlainView:
    """Shows the events of one run as they come.

    Parameters
    ----------
    logs
        ``merged``, ``all`` or ``rank0``, see `accelnb.options.config.LaunchConfig`.
    """

    def __init__(self, run: Run, logs: str) -> None:
        self._run = run
        self._ranks: Sequence[int] = run.ranks
        self._only = min(run.ranks) if logs == "rank0" else None
        self._merger = Merger(self._ranks, merges=logs == "merged")
        self._partial: dict[tuple[int, str], Partial] = collections.defaultdict(Partial)
        self._growing = growing_lines(self._label)
        self._bars = BarLines(merges=logs == "merged")
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
        elif isinstance(event, Progress):
            self._take_bars(event)
        elif isinstance(event, Display):
            self._merger.add(event.rank, Item.of(event))
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
        held = self._merger.is_waiting or any(partial.text for partial in self._partial.values())
        held = held or self._bars.changed
        return _FLUSH_EVERY / 2 if held else 10.0

    def close(self) -> None:
        """Show all that is left."""
        for (rank, name), partial in list(self._partial.items()):
            if partial.text:
                self._finish_line(rank, name, "")
        self._emit_ready(float("inf"))
        self._growing.close()
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
            partial.add(event.text[at:], time.monotonic())

    def _finish_line(self, rank: int, name: str, line: str) -> None:
        partial = self._partial.pop((rank, name), Partial())
        partial.add(line)
        text = partial.finished(self._run.log.folder)
        self._lines_left -= 1
        self._characters_left -= len(text)
        # A line that was shown while it grew, such as a progress bar, stays where it is.
        if not self._growing.finish((rank, name), text):
            self._merger.add(rank, Item(name, text, time.monotonic()))

    def _take_bars(self, event: Progress) -> None:
        for bar in event.bars:
            if not bar.closed:
                self._bars.take(event.rank, bar)
                continue
            key = (event.rank, f"bar {bar.key}")
            text = self._bars.end(event.rank, bar)
            if text and self._bars.goes_on_beside(event.rank, bar):
                self._growing.update(key, text)
            if not text:
                self._growing.drop(key)
            elif self._tail is not None and not self._growing.has(key):
                self._tail.add((event.rank, "stderr"), text + "\n")
            elif not self._growing.finish(key, text):
                self._merger.add(event.rank, Item("stderr", text, time.monotonic()))
                self._lines_left -= 1
        if self._lines_left <= 0 and self._tail is None:
            self._begin_tail()

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
        self._finish_line(event.rank, event.name, "")
        self._finish_line(event.rank, event.name, left_out(event.lines, self._run.log.folder))

    # ---- showing ----

    def _emit_ready(self, now: float) -> None:
        for item, ranks in self._merger.ready(now):
            self._emit(item, ranks)

    def _emit(self, item: Item, ranks: Sequence[int]) -> None:
        before = self._label(ranks)
        if item.name in ("stdout", "stderr"):
            self._growing.make_way()
            stream = sys.stdout if item.name == "stdout" else sys.stderr
            self._write(stream, f"{before}{item.body}\n")
            return
        data, metadata, wait = item.body
        if item.name == "clear_output":
            if self._ranks[0] in ranks:
                self._clear(bool(wait))
            return
        self._growing.make_way()
        is_update = item.name == "update_display_data"
        if set(data) == {"text/plain"} or get_ipython() is None:
            text = data.get("text/plain", "")
            newline = "\n" if "\n" in text and before else ""
            text = f"{before.rstrip() if newline else before}{newline}{text}"
            if item.transient and in_kernel():
                self._publish({"text/plain": text}, metadata, item.transient, is_update)
            else:
                self._write(sys.stdout, f"{text}\n")
            return
        if before and not is_update:
            self._write(sys.stdout, f"{before.rstrip()}\n")
        self._publish(data, metadata, item.transient, is_update)

    def _publish(self, data: Any, metadata: Any, transient: Any, update: bool) -> None:
        self._flush()
        publish_display_data(data, metadata, transient=transient, update=update)

    def _clear(self, wait: bool) -> None:
        self._flush()
        clear_output(wait)
        for part in (self._growing, self._board, self._tail):
            if part is not None:
                part.cleared()

    def _show_partials(self, now: float) -> None:
        for (rank, name), partial in self._partial.items():
            if partial.text and (now - partial.since >= HOLD or self._growing.has((rank, name))):
                self._growing.update((rank, name), partial.text)
        for (rank, key), text in self._bars.growing():
            self._growing.update((rank, f"bar {key}"), text)
        self._growing.draw()

    def _write(self, stream: TextIO, text: str) -> None:
        stream.write(text)
        self._written.add(stream)

    def _say(self, text: str) -> None:
        self._growing.make_way()
        self._write(sys.stderr, f"accelnb: {text}\n")

    def _flush(self) -> None:
        """Flush what was written to: a flush in a kernel waits for its output thread."""
        for stream in self._written:
            stream.flush()
        self._written.clear()

    def _label(self, ranks: Sequence[int]) -> str:
        return label(ranks) if self._only is None else ""
