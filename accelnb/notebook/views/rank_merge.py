"""Lines and displays of several ranks put in one order, those that are equal once.

To see whether the other ranks print a line too, it is held for a moment.
"""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelnb.engine.events import Display
from accelnb.engine.failure import rank_list

# A line waits this long (s) for the same line of other ranks, unless so many wait behind it.
HOLD = 0.15
_WAITING = 5_000
_LOOK_AHEAD = 50
LONGEST_LINE = 10_000


@dataclass
class Item:
    """A line, or a display, of one rank.

    Attributes
    ----------
    name : str
        ``stdout``, ``stderr`` or a display message's type.
    at : float
        When it arrived (`time.monotonic`).
    """

    name: str
    body: Any
    at: float
    transient: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, event: Display) -> Item:
        content = event.content
        body = (content.get("data"), content.get("metadata"), content.get("wait"))
        transient = content.get("transient") or {}
        if display_id := transient.get("display_id"):
            transient = {"display_id": f"rank{event.rank}-{display_id}"}
        return cls(event.kind, body, time.monotonic(), transient)

    def same_as(self, other: Item) -> bool:
        if self is other:
            return True
        same = self.name == other.name and self.body == other.body
        return same and not self.transient and not other.transient


@dataclass
class Partial:
    """The unfinished line of one rank's stream, and how much of it is left out."""

    text: str = ""
    since: float = 0.0
    more: int = 0

    def add(self, text: str, at: float = 0.0) -> None:
        """Append `text`, written then; after a carriage return it overwrites, as in a terminal."""
        self.since = self.since if self.text else at
        text = self.text + text
        if "\r" in text.rstrip("\r"):
            ends = "\r" if text.endswith("\r") else ""
            text = text.rstrip("\r").rpartition("\r")[2] + ends
            self.more = 0
        self.text = text[:LONGEST_LINE]
        self.more += len(text) - len(self.text)

    def finished(self, folder: Path) -> str:
        """Return the line; `folder` is where the whole of it is."""
        text = self.text.rstrip("\r")
        if self.more:
            text += f" [... {self.more:,} more characters, in full in {folder}]"
        return text


class Merger:
    """Holds what ranks have yet to show, and gives it in the order to show it in.

    Parameters
    ----------
    merges
        Whether equal items of several ranks are one.

    Examples
    --------
    >>> from accelnb.notebook.views.rank_merge import Item, Merger
    >>> merger = Merger((0, 1), merges=True)
    >>> for rank in (0, 1):
    ...     merger.add(rank, Item("stdout", "epoch 3", at=0.0))
    >>> [(item.body, ranks) for item, ranks in merger.ready(now=0.0)]
    [('epoch 3', [0, 1])]
    """

    def __init__(self, ranks: Sequence[int], merges: bool) -> None:
        self._ranks = ranks
        self._merges = merges and len(ranks) > 1
        # By stream, for what ranks write to stderr is in no order with their stdout.
        self._waiting = {
            name: {rank: collections.deque[Item]() for rank in ranks}
            for name in ("stdout", "stderr")
        }

    def add(self, rank: int, item: Item) -> None:
        lane = self._waiting.get(item.name) or self._waiting["stdout"]
        lane[rank].append(item)

    @property
    def is_waiting(self) -> bool:
        return any(items for lane in self._waiting.values() for items in lane.values())

    def ready(self, now: float) -> Iterator[tuple[Item, list[int]]]:
        """Give what is to be shown by `now`, each with its ranks."""
        for lane in self._waiting.values():
            while (ranks := self._next_of(lane, now)) is not None:
                items = [lane[rank].popleft() for rank in ranks]
                yield items[0], ranks

    def _next_of(self, lane: Mapping[int, Sequence[Item]], now: float) -> list[int] | None:
        """Return the ranks whose next item, the same for all of them, is to be shown now."""
        heads = {rank: items[0] for rank, items in lane.items() if items}
        if not heads:
            return None
        if not self._merges:
            return [min(heads, key=lambda rank: heads[rank].at)]
        first = heads[min(heads)]
        if len(heads) == len(self._ranks) and all(first.same_as(h) for h in heads.values()):
            return sorted(heads)
        due = now - HOLD
        if all(head.at > due and len(lane[rank]) < _WAITING for rank, head in heads.items()):
            return None
        # What others have yet to show too goes after what they show before it.
        alone = {rank: head for rank, head in heads.items() if not _comes_later(head, rank, lane)}
        pool = {rank: head for rank, head in (alone or heads).items() if head.at <= due + HOLD / 2}
        pool = pool or heads
        every = len(heads) == len(self._ranks)
        chosen = pool[min(pool) if every else min(pool, key=lambda rank: pool[rank].at)]
        return sorted(rank for rank, head in heads.items() if head.same_as(chosen))


def label(ranks: Sequence[int]) -> str:
    """Return what is written before something of these ranks."""
    return f"[{rank_list(ranks)}] " if ranks else ""


def left_out(lines: int, folder: Path) -> str:
    """Return what stands for lines that are not shown; `folder` is where they are."""
    return f"[... {lines:,} more line{'s' * (lines != 1)}, in full in {folder}]"


def _comes_later(item: Item, rank: int, lane: Mapping[int, Sequence[Item]]) -> bool:
    """Return whether another rank shows the same item behind others."""
    return any(
        item.same_as(later)
        for other, items in lane.items()
        if other != rank
        for later in itertools.islice(items, 1, _LOOK_AHEAD)
    )
