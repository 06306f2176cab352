"""How the indices of a map-style dataset reach a loader's iterator, and what is known of them."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from accelnb.training.data.samplers import BatchSamplerShard


class Note(NamedTuple):
    """What is known of a batch beside its data."""

    samples: int | None = None
    duplicates: int = 0  # samples at its end that repeat earlier ones
    remainder: int = 0  # as in `Share`; -1: unknown
    end: bool = False  # whether it is the rank's last
    inner: dict[str, Any] | None = None  # the state of torchdata's loader after it


class IndexFeed:
    """The index sampler that torch's iterator sees: it takes indices from the loader's own.

    Attributes
    ----------
    skip : int
        Batches that the next iteration leaves out; their data is not loaded.
    keep : int
        How many of these it does not leave out, the first.
    latest : DrawnIndices
        The newest iteration.
    """

    latest: DrawnIndices

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.skip = 0
        self.keep = 0

    def __iter__(self) -> Iterator[Any]:
        self.latest = DrawnIndices(self.sampler, self.skip, self.keep)
        return iter(self.latest)

    def __len__(self) -> int:
        return len(self.sampler)

    def __getstate__(self) -> dict[str, Any]:
        return {"sampler": self.sampler, "skip": 0, "keep": 0}


class DrawnIndices:
    """One iteration over the indices; workers draw them ahead of the batches that arrive."""

    def __init__(self, sampler: Any, skip: int, keep: int) -> None:
        self._shares: Iterator[tuple[Any, int, int]]  # as `Share`
        if isinstance(sampler, BatchSamplerShard):
            self._shares = sampler.shares()
        else:
            self._shares = zip(sampler, itertools.repeat(0), itertools.repeat(0), strict=False)
        if skip:
            kept = itertools.islice(self._shares, keep)
            self._shares = itertools.chain(kept, itertools.islice(self._shares, skip - keep, None))
        self._ahead: tuple[Any, int, int] | None = None  # drawn, not handed to torch
        self._coming: deque[tuple[Any, int, int]] = deque()  # handed to torch, not arrived
        self._note = Note()  # the newest: most batches are alike
        self._exhausted = False
        self._left = _length(sampler, skip - keep)

    def draw(self) -> bool:
        """Draw the next indices, if they are not drawn yet; return whether there are any."""
        if self._ahead is None and not self._exhausted:
            self._ahead = next(self._shares, None)
            self._exhausted = self._ahead is None
        return self._ahead is not None

    def __iter__(self) -> Iterator[Any]:
        while share := self._ahead or next(self._shares, None):
            self._ahead = None
            self._coming.append(share)
            yield share[0]
        self._exhausted = True

    def arrived(self) -> Note:
        """Return what is known of the batch that torch's iterator has just returned."""
        indices, duplicates, remainder = self._coming.popleft()
        samples = len(indices) if hasattr(indices, "__len__") else None
        if self._left is not None:
            self._left -= 1
        if self._exhausted or self._left is None:
            end = not self._coming and not self.draw()
        else:
            end = self._left <= 0
        if end or duplicates or remainder:
            return Note(samples, duplicates, remainder, end)
        if samples != self._note.samples:
            self._note = Note(samples)
        return self._note


def _length(sampler: Any, skip: int) -> int | None:
    """Return how many batches will come, or None where only drawing the next one tells.

    To draw one ahead would change the order of random numbers if the sampler draws them from
    torch's global generator batch by batch. So the length is trusted, but for samplers that
    were made here: those are for several ranks, which share no such order.
    """
    if isinstance(sampler, BatchSamplerShard):
        return None
    try:
        return len(sampler) - skip
    except (TypeError, NotImplementedError):
        return None
