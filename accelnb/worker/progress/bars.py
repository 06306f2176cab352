"""The progress bars of a rank on their way to the notebook."""

from __future__ import annotations

import collections
import math
import re
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from accelnb.engine.wire.reports import Bar

# At most 8 messages a second, and one more when a bar begins or ends.
_EVERY = 0.125
_BARS_IN_MESSAGE = 100
_BARS_WAITING = 1_000
_LONGEST = 1_000
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x1f\x7f]")


class Position(NamedTuple):
    """A point in what a rank sends: after so many messages, and bytes of each output."""

    messages: int
    written: Sequence[int]


@dataclass(eq=False)
class ToldBar:
    """A bar of this rank, and how much of it the notebook knows."""

    state: Bar | None = None  # as last told
    key: str = ""
    is_open: bool = False
    waits: bool = False  # for the link thread
    known: bool = False  # the notebook shows it as going on; of the link thread

    def is_over_with(self, state: Bar) -> bool:
        """Return whether the bar is closed, maybe in an earlier cell, and `state` only says so."""
        if self.is_open or self.state is None:
            return False
        return state.closed or state.same_progress(self.state)


class Bars:
    """Keeps the newest state of each bar until the link thread takes it.

    It has no lock: a bar may be told from any thread, also from the link thread itself when that
    happens to collect one as garbage.

    Parameters
    ----------
    carrier
        The link thread.
    position
        Says where in the rank's output something belongs that is told now.
    """

    def __init__(self, carrier: threading.Thread, position: Callable[[], Position]) -> None:
        self.carrier = carrier
        self.ending = False  # the cell is over: what is told by now goes before its reply
        self.after: Position | None = None  # where a bar began or ended, if one did
        self._position = position
        self._waiting: collections.deque[ToldBar] = collections.deque()
        self._open: set[ToldBar] = set()
        self._labels: collections.Counter[str] = collections.Counter()
        self._full_at = 0.0  # when all messages that may come at once may come again

    # ---- for the threads of a cell ----

    def begin(self) -> None:
        """Give out keys anew: another cell begins."""
        self._labels.clear()

    def end(self) -> None:
        """Close what is still open: the cell is over."""
        for bar in list(self._open):
            assert bar.state is not None
            self._set(bar, bar.state._replace(closed=True))
        self.ending = True

    def tell(self, bar: ToldBar, state: Bar) -> None:
        """Take note of a bar's state; never wait for the notebook."""
        if bar.is_over_with(state):
            return
        if not bar.is_open and self._is_full():
            if state.closed and state.text:
                print(state.text, file=sys.__stderr__)
            return
        if not bar.is_open and not bar.waits:
            bar.key = self._key(state.label)
        self._set(bar, state)

    def _set(self, bar: ToldBar, state: Bar) -> None:
        begins_or_ends = state.closed or not bar.is_open
        bar.is_open = not state.closed
        (self._open.add if bar.is_open else self._open.discard)(bar)
        bar.state = state  # before a look at `waits`, see `take`
        if not bar.waits:
            bar.waits = True
            self._waiting.append(bar)
        if begins_or_ends and self.after is None:
            self.after = self._position()

    def _is_full(self) -> bool:
        if len(self._waiting) < _BARS_WAITING:
            return False
        return threading.current_thread() is not self.carrier  # which could not print

    def _key(self, label: str) -> str:
        """Return what ranks that run the same code call the same bar."""
        self._labels[label] += 1
        return f"{label}#{self._labels[label]}"

    # ---- for the link thread ----

    def __len__(self) -> int:
        return len(self._waiting)

    def due(self, now: float, sent: int) -> bool:
        """Return whether bars are to be sent now that `sent` other messages are."""
        if not self._waiting:
            return False
        if self.after is None:
            return now >= self._full_at
        return now >= self._full_at - _EVERY and sent >= self.after.messages

    @property
    def next_due(self) -> float:
        return self._full_at - (_EVERY if self.after else 0)

    def take(self, now: float) -> list[dict[str, Any]]:
        """Return the states for a message."""
        self.after = None
        states = []
        for _ in range(min(len(self._waiting), _BARS_IN_MESSAGE)):
            bar = self._waiting.popleft()
            bar.waits = False  # before the state is read: what is told from now on waits anew
            state = bar.state
            assert state is not None
            if state.text or not state.closed or bar.known:
                states.append(state._replace(key=bar.key)._asdict())
            bar.known = not state.closed
        self.ending = self.ending and bool(self._waiting)
        if states:
            self._full_at = max(now, self._full_at) + _EVERY
        return states


def state(label: str, done: Any, total: Any, unit: str, rate: Any, text: str, closed: bool) -> Bar:
    """Return a bar as it can be sent, whatever a program counts with; its key is given later.

    Examples
    --------
    >>> from accelnb.worker.progress.bars import state
    >>> bar = state("train", 3, float("inf"), "it", None, "train:\\r3it", closed=False)
    >>> bar.total, bar.text
    (None, 'train:3it')
    """
    return Bar(
        "", _plain(label), _number(done) or 0, _number(total), _plain(unit), _number(rate),
        _plain(text), closed,
    )  # fmt: skip


def _number(value: Any) -> float | None:
    if type(value) is int:
        return value
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    return number if math.isfinite(number) else None


def _plain(text: Any) -> str:
    """Return one line without what only a terminal understands."""
    return _CONTROL.sub("", str(text).replace("\n", " "))[:_LONGEST]


_bars: Bars | None = None  # of this process


def current_bars() -> Bars | None:
    """Return whom the bars of this process tell their states; None in a fork of a rank."""
    return _bars


def tell_to(bars: Bars | None) -> None:
    """Have the bars of this process tell `bars` their states."""
    global _bars
    _bars = bars
