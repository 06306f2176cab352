"""When the run under way is stopped, and when ranks that do not answer are given up."""

from __future__ import annotations

import time
from collections.abc import Collection

# A rank that failed leaves the others this long to fail or finish too, then they are stopped.
_GRACE = 0.5
# A rank that was interrupted and has not answered after this long is killed and replaced.
_ANSWER = 2.2


class Stopping:
    """The end of one run, if it does not come by itself. Times are those of `time.monotonic`."""

    def __init__(self) -> None:
        self._failed_at: float | None = None  # the first rank
        self._asked_at: float | None = None  # of those that were told to stop
        self._asked: frozenset[int] = frozenset()

    @property
    def under_way(self) -> bool:
        return self._asked_at is not None

    def concerns(self, rank: int) -> bool:
        """Whether a rank was told to stop."""
        return rank in self._asked

    def note_failure(self) -> None:
        if self._failed_at is None:
            self._failed_at = time.monotonic()

    def begin(self, ranks: Collection[int]) -> None:
        """Take note that these ranks are told to stop now."""
        self._asked_at, self._asked = time.monotonic(), frozenset(ranks)

    def reason(self, deadline: float | None, now: float) -> str | None:
        """Return why the run has to be stopped now, None if it need not be."""
        if self._failed_at is not None and now >= self._failed_at + _GRACE:
            return "failure"
        return "timeout" if deadline is not None and now >= deadline else None

    def is_overdue(self, now: float) -> bool:
        """Return whether the ranks that were told to stop have had their time; it begins anew."""
        if self._asked_at is None or now < self._asked_at + _ANSWER:
            return False
        self._asked_at = now
        return True

    def next_look(self, deadline: float | None) -> float:
        """Return when one of the others may have another answer."""
        if self._asked_at is not None:
            return self._asked_at + _ANSWER
        failed = float("inf") if self._failed_at is None else self._failed_at + _GRACE
        return failed if deadline is None else min(deadline, failed)
