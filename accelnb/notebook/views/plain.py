"""A run shown as plain text and displays: in a notebook, a terminal, or headless.

Every line carries its ranks. A line that all ranks print is shown once, ``[0-1] epoch 3``; to
see whether the others print it too, a line is held for a moment.
"""

from __future__ import annotations

import collections
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from IPython.core.getipython import get_ipython
from IPython.display import clear_output, publish_display_data

from accelnb.engine.run import Display, Event, Run, Stream, rank_list
from accelnb.notebook.views.live_text import LiveText, live_text

_HOLD = 0.15  # s that a line waits for the same line of other ranks
_FLUSH_EVERY = 0.1


@dataclass
class _Item:
    """A line, or a display, of one rank."""

    name: str  # stdout, stderr or a display message's type
    body: Any
    at: float
    transient: dict[str, Any] = field(default_factory=dict)

    def same_as(self, other: _Item) -> bool:
        return self.name == other.name and self.body == other.body


@dataclass
class _Partial:
    """The unfinished line of one rank's stream."""

    text: str = ""
    since: float = 0.0


class PlainView:
    """Shows the events of one run as they come.

    Parameters
    ----------
    ranks
        The ranks that take part.
    logs
        ``merged``, ``all`` or ``rank0``, see `accelnb.config.LaunchConfig`.
    """

    def __init__(self, ranks: Sequence[int], logs: str) -> None:
        self._ranks: Sequence[int] = tuple(ranks)
        self._merges = logs == "merged" and len(self._ranks) > 1
        self._only = min(ranks) if logs == "rank0" else None
        self._waiting = {rank: collections.deque[_Item]() for rank in self._ranks}
        self._partial: dict[tuple[int, str], _Partial] = collections.defaultdict(_Partial)
        self._live: LiveText = live_text(self._label)
        self._flushed_at = 0.0
        self._written: set[TextIO] = set()

    def show(self, event: Event) -> None:
        if event.rank not in self._waiting or self._only not in (None, event.rank):
            return
        if isinstance(event, Stream):
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
        held = any(self._waiting.values()) or any(p.text for p in self._partial.values())
        return _FLUSH_EVERY / 2 if held else 10.0

    def close(self) -> None:
        """Show all that is left."""
        for (rank, name), partial in self._partial.items():
            if partial.text:
                self._finish_line(rank, name, "")
        self._emit_ready(float("inf"))
        self._live.close()
        self._flush()

    # ---- taking ----

    def _take_text(self, event: Stream) -> None:
        *lines, rest = event.text.split("\n")
        for line in lines:
            self._finish_line(event.rank, event.name, line)
        if rest:
            partial = self._partial[event.rank, event.name]
            partial.since = partial.since if partial.text else time.monotonic()
            partial.text = _after_returns(partial.text + rest)

    def _finish_line(self, rank: int, name: str, line: str) -> None:
        partial = self._partial.pop((rank, name), _Partial())
        text = _after_returns(partial.text + line).rstrip("\r")
        # A line that was shown while it grew, such as a progress bar, stays where it is.
        if not self._live.finish((rank, name), text):
            self._waiting[rank].append(_Item(name, text, time.monotonic()))

    def _take_display(self, event: Display) -> None:
        content = event.content
        body = (content.get("data"), content.get("metadata"), content.get("wait"))
        transient = content.get("transient") or {}
        if display_id := transient.get("display_id"):
            transient = {"display_id": f"rank{event.rank}-{display_id}"}
        self._waiting[event.rank].append(_Item(event.kind, body, time.monotonic(), transient))

    # ---- showing ----

    def _emit_ready(self, now: float) -> None:
        while True:
            heads = {rank: items[0] for rank, items in self._waiting.items() if items}
            if not heads:
                return
            every = len(heads) == len(self._ranks)
            first = min(heads) if every else min(heads, key=lambda rank: heads[rank].at)
            item = heads[first]
            same = [first]
            if self._merges and not item.transient:
                same = [rank for rank, head in heads.items() if head.same_as(item)]
                if not every and len(same) < len(self._ranks) and now - item.at < _HOLD:
                    return
            for rank in same:
                self._waiting[rank].popleft()
            self._emit(item, sorted(same))

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
                clear_output(wait=bool(wait))
            return
        self._live.make_way()
        self._flush()
        if item.name == "update_display_data":
            publish_display_data(data, metadata, transient=item.transient, update=True)
        elif set(data) == {"text/plain"} or get_ipython() is None:
            text = data.get("text/plain", "")
            newline = "\n" if "\n" in text and label else ""
            self._write(sys.stdout, f"{label.rstrip() if newline else label}{newline}{text}\n")
        else:
            if label:
                self._write(sys.stdout, f"{label.rstrip()}\n")
                self._flush()
            publish_display_data(data, metadata, transient=item.transient)

    def _show_partials(self, now: float) -> None:
        for (rank, name), partial in self._partial.items():
            if partial.text and (now - partial.since >= _HOLD or self._live.has((rank, name))):
                self._live.update((rank, name), partial.text)
        self._live.draw()

    def _write(self, stream: TextIO, text: str) -> None:
        stream.write(text)
        self._written.add(stream)

    def _flush(self) -> None:
        """Flush what was written to: a flush in a kernel waits for its output thread."""
        for stream in self._written:
            stream.flush()
        self._written.clear()

    def _label(self, ranks: Sequence[int]) -> str:
        return "" if self._only is not None else f"[{rank_list(ranks)}] "


def follow(run: Run, view: PlainView) -> None:
    """Show a run until it is over, then raise what it ended with.

    Ctrl-C, or the stop button, stops the ranks; pressed again it no longer waits for them.
    """
    try:
        _show_all(run, view)
    except KeyboardInterrupt:
        run.interrupt()
        _show_all(run, view)
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


def _after_returns(text: str) -> str:
    """Return what a terminal would show of a line with carriage returns in it."""
    if "\r" not in text.rstrip("\r"):
        return text
    ends = "\r" if text.endswith("\r") else ""
    return text.rstrip("\r").rpartition("\r")[2] + ends
