"""Where each rank said that it is, and whether none of them moves any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from accelnb.engine.stall_report import Place, StallWatch, silent_place
from accelnb.engine.workers import Member

# A rank whose link thread has not said where it is after this long cannot.
SAY_WHERE = 1.0


class Whereabouts:
    """Keeps the newest place of each rank.

    Parameters
    ----------
    state
        Returns Linux's letter for a process's state, None if there is no such process.
    """

    def __init__(self, state: Callable[[int], str | None]) -> None:
        self._state = state
        self._places: dict[int, tuple[float, Place]] = {}  # when each rank last said it
        self._stall = StallWatch(None)

    def begin(self, stall: float | None) -> None:
        """Watch a new run, in which `stall` seconds without progress are to be told."""
        self._stall = StallWatch(stall)

    def moved(self) -> None:
        """Take note of a sign of life."""
        self._stall.moved()

    @property
    def next_look(self) -> float:
        """When to look for a stall (`time.monotonic`)."""
        return self._stall.next_step

    def take(self, place: Place) -> None:
        self._places[place.rank] = time.monotonic(), place

    def all_told(self, since: float, ranks: Sequence[int]) -> bool:
        return all(r in self._places and self._places[r][0] >= since for r in ranks)

    def told(self, since: float, members: Sequence[Member]) -> list[Place]:
        """Return where the ranks are; of those that have not said so, what the system knows."""
        places = {rank: place for rank, (at, place) in self._places.items() if at >= since}
        return [places.get(member.rank) or self._silent(member) for member in members]

    def look(
        self, now: float, members: Sequence[Member], ask: Callable[[], object]
    ) -> tuple[str, list[Place]] | None:
        """Ask the ranks, or compare what they answered; return a stall's report and the places."""
        if self._stall.asked is None:
            self._stall.asked = now
            self._stall.next_step = now + min(SAY_WHERE, self._stall.every)
            ask()
            return None
        places = self.told(self._stall.asked, members)
        report = self._stall.compare(places, now)
        return (report, places) if report else None

    def _silent(self, member: Member) -> Place:
        pid = None if member.exit else member.pid
        return silent_place(member.rank, pid, self._state(pid) if pid else None)
