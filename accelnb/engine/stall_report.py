"""Where every rank is, and why a run does not move."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from accelnb.engine.failure import grouped, name_ranks


class Frame(NamedTuple):
    """A frame of a rank's main thread.

    Attributes
    ----------
    file : str
        The notebook's name of a cell, such as ``Cell In[5]``, or a path.
    branches : tuple of (line, part)
        Of a cell: the statements that the line is in, and in which part of each.
    """

    file: str
    line: int
    function: str
    is_cell: bool
    branches: tuple[tuple[int, str], ...]


class Collective(NamedTuple):
    """A collective that a rank waits in: the `number`-th of its process group."""

    name: str
    number: int
    group: str


class Wait(NamedTuple):
    """Another wait of a rank: `what` is e.g. ``recv from rank 1``, `peers` who could end it."""

    what: str
    peers: tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Where one rank is.

    Attributes
    ----------
    frames : tuple of Frame
        Of its main thread, innermost first; none while it runs no cell.
    silent : str or None
        Why it does not answer, if it does not.
    memory, device_memory : int or None
        Bytes in use.
    """

    rank: int
    frames: tuple[Frame, ...] = ()
    collective: Collective | None = None
    waits_for: Wait | None = None
    silent: str | None = None
    memory: int | None = None
    device_memory: int | None = None
    position: tuple[Any, ...] = ()

    @property
    def line(self) -> str | None:
        """Return e.g. ``Cell In[5], line 12``: the innermost line of the notebook."""
        for frame in self.frames:
            if frame.is_cell:
                return f"{frame.file}, line {frame.line}"
        return None

    @property
    def wait(self) -> str:
        """Return in a few words what the rank is at, e.g. ``waiting in all_reduce``."""
        if self.collective:
            return f"waiting in {self.collective.name}"
        if self.waits_for:
            return f"waiting in {self.waits_for.what}"
        if self.silent:
            return "stalled: does not answer"
        return f"stalled at {self.line}" if self.line else "stalled"

    def describe(self) -> str:
        if self.silent:
            return self.silent
        if not self.frames:
            return "idle, it runs no cell"
        where = self.line or "in a cell"
        if self.collective:
            return f"{self.collective.name} (collective {self.collective.number}), {where}"
        if self.waits_for:
            return f"{self.waits_for.what}, {where}"
        inner = self.frames[0]
        if not inner.is_cell:
            return f"{where}, in {inner.function} ({Path(inner.file).name}:{inner.line})"
        return where


def place_of(rank: int, content: dict[str, Any]) -> Place:
    """Read what `accelnb.worker.stack_report.report` made."""
    return Place(
        rank,
        tuple(_frame(*frame) for frame in content["frames"]),
        Collective(**content["collective"]) if content["collective"] else None,
        Wait(content["wait"]["what"], tuple(content["wait"]["peers"])) if content["wait"] else None,
        None,
        content["memory"],
        content["device_memory"],
        tuple(content["position"]),
    )


def _frame(
    file: str, line: int, function: str, is_cell: bool, branches: Sequence[Sequence[Any]]
) -> Frame:
    parts = tuple((line, part) for line, part in branches)
    return Frame(file, line, function, is_cell, parts)


def silent_place(rank: int, pid: int | None, state: str | None) -> Place:
    """Say what can be said of a rank that does not answer; `state` is its process's."""
    if state is None:
        return Place(rank, silent="its process has ended")
    if state in "Tt":
        return Place(rank, silent=f"its process is stopped (kill -CONT {pid} resumes it)")
    return Place(rank, silent="does not answer: it is in C code that keeps Python's lock")


def stacks_report(places: Sequence[Place]) -> str:
    """Return the stacks of all ranks, those at an equal place once, innermost frame last."""
    blocks = []
    for same in grouped(places, lambda p: (p.frames, p.wait)):
        first = same[0]
        lines = [f"{name_ranks(p.rank for p in same)}: {first.describe()}"]
        for frame in reversed(first.frames):
            lines.append(f"    {frame.file}, line {frame.line}, in {frame.function}")
        blocks.append("\n".join(lines))
    return "\n".join([*blocks, *_mismatch_lines(places)])


def stall_report(places: Sequence[Place], seconds: float) -> str:
    """Say where every rank is that made no progress for `seconds`."""
    lines = [f"no rank has made progress for {seconds:.0f} s:"]
    for same in grouped(places, lambda p: p.describe()):
        lines.append(f"  {name_ranks(p.rank for p in same)}: {same[0].describe()}")
    lines += _mismatch_lines(places)
    lines.append(_what_stop_does(places))
    return "\n".join(lines)


def _what_stop_does(places: Sequence[Place]) -> str:
    deaf = [place.rank for place in places if place.silent]
    if not deaf:
        return "the stop button ends the cell and keeps the ranks and their variables"
    are, their = ("they are", "their") if len(deaf) > 1 else ("it is", "its")
    return (
        f"the stop button ends the cell; if {name_ranks(deaf)} cannot be interrupted, {are} "
        f"replaced and {their} variables are lost"
    )


def _mismatch_lines(places: Sequence[Place]) -> list[str]:
    return _collective_lines(places) + _peer_lines(places)


def _peer_lines(places: Sequence[Place]) -> list[str]:
    """Say what those ranks do whose message or arrival others wait for."""
    by_rank = {place.rank: place for place in places}
    lines = []
    for place in places:
        for peer in place.waits_for.peers if place.waits_for else ():
            line = _peer_line(place, peer, by_rank.get(peer))
            if line is not None:
                lines.append(line)
    return lines


def _peer_line(place: Place, peer: int, other: Place | None) -> str | None:
    assert place.waits_for is not None
    here = f"rank {place.rank} in {place.waits_for.what}"
    if other is None:
        return f"{here}; rank {peer} takes no part in this cell"
    if other.waits_for is None:
        return f"{here}; rank {peer}: {other.describe()}"
    if other.waits_for.what == place.waits_for.what:
        return None  # both are where they meet
    if other.waits_for.peers == (place.rank,) and place.waits_for.peers == (peer,):
        mutual = f"{here}, rank {peer} in {other.waits_for.what}: each waits for the other"
        return mutual if place.rank < peer else None
    return f"{here}; rank {peer}: {other.describe()}"


def _collective_lines(places: Sequence[Place]) -> list[str]:
    """Say outright that ranks wait in different collectives, or that some wait for others."""
    waiting = [place for place in places if place.collective]
    others = [place for place in places if not place.collective and not place.silent]
    at = grouped(waiting, lambda p: p.collective)
    if len(at) > 1:
        said = [
            f"{name_ranks(p.rank for p in same)} at collective {same[0].collective.number} "  # type: ignore[union-attr]
            f"({same[0].collective.name})"  # type: ignore[union-attr]
            for same in at
        ]
        branch = branch_line(at[0][0].frames, at[1][0].frames)
        where = f" at {branch}" if branch else ""
        return [f"{'; '.join(said)}: the ranks took different branches{where}"]
    if waiting and others:
        name = waiting[0].collective.name  # type: ignore[union-attr]
        return [
            f"{name_ranks(p.rank for p in waiting)} in {name}: "
            f"{name_ranks(p.rank for p in others)} did not come to it"
        ]
    return []


def branch_line(one: Sequence[Frame], other: Sequence[Frame]) -> str | None:
    """Return the line of the notebook where two ranks parted, e.g. ``Cell In[5], line 8``.

    It is that of the outermost ``if``, loop or the like which holds one rank's line and not
    the other's, or each in another of its branches.
    """
    for mine, theirs in zip(_cells(one), _cells(other), strict=False):
        if (mine.file, mine.function) != (theirs.file, theirs.function):
            return None  # there is no statement that holds both
        if mine.line == theirs.line:
            continue
        for of_mine, of_theirs in itertools.zip_longest(mine.branches, theirs.branches):
            if of_mine != of_theirs:
                line, _ = of_mine or of_theirs
                return f"{mine.file}, line {line}"
    return None


def _cells(frames: Sequence[Frame]) -> list[Frame]:
    return [frame for frame in reversed(frames) if frame.is_cell]
