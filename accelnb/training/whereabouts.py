"""Where each rank is in the program, so that one that waits learns whether another still comes.

All ranks pass batches, accumulations, backward passes and collectives alike. Each counts what it
has passed and tells the others through the process group's store, which takes a few microseconds
and waits for nobody. A rank that has passed more than this one, and is not where this one waits,
has gone by.
"""

from __future__ import annotations

import atexit
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

_PREFIX = "accelnb-whereabouts"


@dataclass(frozen=True)
class Place:
    """Where a rank is.

    Attributes
    ----------
    run : str
        Which cell it runs; empty in a script.
    collectives : int
        How many it has begun.
    passed : tuple of int
        Batches, accumulations and backward passes that it has begun since.
    ended : bool
        Whether the cell or script is over there.
    call : str
        The call in which it waits for the others, with what it was told; empty in none.
    number : int
        Of that call on that rank.
    """

    run: str = ""
    collectives: int = 0
    passed: tuple[int, int, int] = (0, 0, 0)
    ended: bool = False
    call: str = ""
    number: int = 0

    def is_past(self, other: Place) -> bool:
        """Return whether a rank here has passed what one at `other` has not.

        That it has begun more batches is only a sign: it may have had more of them.
        """
        if self.run != other.run:
            return False  # it has not begun this cell
        if self.ended or self.collectives != other.collectives:
            return self.ended or self.collectives > other.collectives
        return self.passed[2] > other.passed[2]

    def seems_past(self, other: Place) -> bool:
        """Return whether it has passed something, batches too, that one at `other` has not."""
        if self.run != other.run or self.collectives != other.collectives:
            return self.is_past(other)
        return any(mine > its for mine, its in zip(self.passed, other.passed, strict=True))

    def passes_as(self, other: Place) -> bool:
        """Return whether ranks here and at `other` have passed the same."""
        mine = self.run, self.collectives, self.passed
        return mine == (other.run, other.collectives, other.passed)

    @property
    def told(self) -> str:
        """What the rank is at, in words."""
        if self.ended:
            return "has ended"
        if self.call:
            return f"is in {self.call.partition(' ')[0]}()"
        batches, accumulations, passes = self.passed
        if passes and passes >= max(batches, accumulations):
            return "went on to a backward pass"
        return "went on to the next batch" if any(self.passed) else "went on to a collective"

    def packed(self) -> str:
        numbers = self.collectives, *self.passed, int(self.ended), self.number
        return f"{self.run}\n{' '.join(map(str, numbers))}\n{self.call}"

    @classmethod
    def unpacked(cls, text: str) -> Place:
        run, numbers, call = text.split("\n", 2)
        collectives, batches, accumulations, passes, ended, number = map(int, numbers.split())
        return cls(run, collectives, (batches, accumulations, passes), bool(ended), call, number)


@dataclass
class _Rank:
    """What this rank has passed."""

    run: str = ""
    collectives: int = 0
    passed: list[int] = field(default_factory=lambda: [0, 0, 0])
    group: Any = None
    store: Any = None
    key: str = ""

    def place(self) -> Place:
        batches, accumulations, passes = self.passed
        return Place(self.run, self.collectives, (batches, accumulations, passes))


_here = _Rank()


def store() -> Any:
    """Return the store in which ranks tell each other where they are, None without one."""
    group = dist.group.WORLD
    if group is not _here.group:
        _here.group, _here.store = group, _store_of(group)
        _here.key = "" if group is None else f"rank-{group.rank()}"
    return _here.store


def _store_of(group: Any) -> Any:
    if group is None or group.size() == 1:
        return None
    found = c10d._world.pg_map[group][1]
    served = found
    while isinstance(served, dist.PrefixStore):
        served = served.underlying_store
    # A store in a file would grow with each batch.
    return dist.PrefixStore(_PREFIX, found) if isinstance(served, dist.TCPStore) else None


def here() -> Place:
    """Return where this rank is."""
    return _here.place()


def places(ranks: list[int]) -> dict[int, Place]:
    """Return where other ranks are, as far as they have told."""
    known = store()
    found = {rank: f"rank-{rank}" for rank in ranks if known.check([f"rank-{rank}"])}
    texts = known.multi_get(list(found.values())) if found else []
    return {rank: Place.unpacked(t.decode()) for rank, t in zip(found, texts, strict=True)}


def tell(place: Place | None = None) -> None:
    """Tell the others where this rank is."""
    known = store()
    if known is not None:
        _set(known, (place or here()).packed())


def _set(known: Any, text: str) -> None:
    with suppress(RuntimeError):  # its server has ended: whoever needs it says so
        known.set(_here.key, text)


def batch() -> None:
    """Take note of a batch that is handed out."""
    _pass(0)


def accumulation() -> None:
    """Take note that the work on a batch begins."""
    _pass(1)


def backward() -> None:
    """Take note of a backward pass that begins."""
    _pass(2)


def collective() -> None:
    """Take note of a collective that begins."""
    if store() is not None:
        _here.collectives += 1
        _here.passed = [0, 0, 0]
        _tell_numbers()


def begin(run: str) -> None:
    """Take note that a cell begins."""
    _here.run, _here.collectives, _here.passed = run, 0, [0, 0, 0]
    tell()


def end() -> None:
    """Take note that the cell or the script is over: no more calls come."""
    tell(replace(here(), ended=True))


def _pass(what: int) -> None:
    if store() is not None:
        _here.passed[what] += 1
        _tell_numbers()


def _tell_numbers() -> None:
    """Do what `tell` does in as little time as can be: it is done in each step."""
    batches, accumulations, passes = _here.passed
    numbers = f"{_here.collectives} {batches} {accumulations} {passes} 0 0"
    _set(_here.store, f"{_here.run}\n{numbers}\n")


atexit.register(end)
