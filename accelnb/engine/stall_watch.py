"""Where each rank said that it is, and whether none of them moves any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from accelnb.engine.stall_report import Place, silent_place, stall_report
from accelnb.engine.workers import Worker

# A rank whose link thread has not said where it is after this long cannot.
SAY_WHERE = 1.0


class StallWatch:
    """Keeps the newest place of each rank, and notices that no rank of a run does anything.

    Ranks are asked where they are every now and then while there is no output; if none has moved
    for as long as the run allows, that is a stall. It is told once, until something moves again.

    Parameters
    ----------
    state
        Returns Linux's letter for a process's state, None if there is no such process.

    Attributes
    ----------
    next_look : float
        When to call `look` (`time.monotonic`).
    """

    def __init__(self, state: Callable[[int], str | None]) -> None:
        self._state = state
        self._places: dict[int, tuple[float, Place]] = {}  # when each rank last said it
        self.begin(None)

    def begin(self, stall: float | None) -> None:
        """Watch a new run, in which `stall` seconds without progress are to be told."""
        self._stall = stall if stall is not None else float("inf")
        self._every = self._stall / 4
        self.moved()

    def moved(self) -> None:
        """Take note of a sign of life."""
        self._since = time.monotonic()
        self._seen: list[tuple[Any, ...]] | None = None
        self._told = False
        self._asked: float | None = None
        self.next_look = self._since + self._every

    def take(self, place: Place) -> None:
        self._places[place.rank] = time.monotonic(), place

    def all_told(self, since: float, ranks: Sequence[int]) -> bool:
        return all(r in self._places and self._places[r][0] >= since for r in ranks)

    def told(self, since: float, workers: Sequence[Worker]) -> list[Place]:
        """Return where the ranks are; of those that have not said so, what the system knows."""
        places = {rank: place for rank, (at, place) in self._places.items() if at >= since}
        return [places.get(worker.rank) or self._silent(worker) for worker in workers]

    def look(
        self, now: float, workers: Sequence[Worker], ask: Callable[[], object]
    ) -> tuple[str, list[Place]] | None:
        """Ask the ranks, or compare what they answered; return a stall's report and the places."""
        if self._asked is None:
            self._asked = now
            self.next_look = now + min(SAY_WHERE, self._every)
            ask()
            return None
        places = self.told(self._asked, workers)
        seen = [(place.position, place.silent) for place in places]
        if self._seen is not None and seen != self._seen:
            self.moved()
        self._seen = seen
        self._asked = None
        self.next_look = now + self._every
        if self._told or now - self._since < self._stall:
            return None
        self._told = True
        return stall_report(places, now - self._since), places

    def _silent(self, worker: Worker) -> Place:
        pid = None if worker.exit else worker.pid
        return silent_place(worker.rank, pid, self._state(pid) if pid else None)
