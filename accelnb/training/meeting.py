"""A call that all ranks should make: which of them do is found out before one waits in vain.

Rank 0 waits until each other rank either makes the call too or has gone by (see `whereabouts`),
and decides. That wait costs nothing: a rank that does neither yet, as it is slow, is one for which
rank 0 would wait at the next step.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
import types
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from accelnb.errors import AccelnbError
from accelnb.training import whereabouts
from accelnb.training.collective_errors import on_this_rank_alone
from accelnb.training.state import PartialState
from accelnb.training.whereabouts import Place

# Seconds in which nothing is heard of a rank: it may be in a collective that is not made here. One
# that comes later adds to what rank 0 has done.
_PATIENCE = 60.0
# Seconds that a rank has to stay where it seems to have gone by, as it has begun more batches:
# there to be left behind, which can be made good, or to be an error.
_DOUBT, _LONG_DOUBT = 1.0, 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.02
_KEY = "meeting"


@dataclass
class Meeting:
    """Who makes a call.

    Attributes
    ----------
    call : str
        Its name.
    said : str
        What rank 0 has to say to the others.
    token : str
        The same on all ranks, another for each meeting.
    place : str
        Where rank 0 was.
    came : dict
        The ranks but 0 that make it with rank 0, each with its own number of the call.
    missing : dict
        Those that do not, with what each does instead.
    """

    call: str
    said: str = ""
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    place: str = ""
    came: dict[str, int] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def of_everyone(self) -> bool:
        return not self.missing


@contextmanager
def meeting(
    call: str, target: str = "", takes_all: str = "", said: str = "", in_step: bool = False
) -> Iterator[Meeting]:
    """Find out who makes a call, and run the block with them.

    Where not all ranks make it, each one in the block is on its own: `together` asks no other.

    Parameters
    ----------
    target
        What the call is made for.
    takes_all
        Why it takes all ranks, if it does.
    said
        What rank 0 has to say to the others.
    in_step
        Whether the ranks are known to have the same number of batches.

    Raises
    ------
    AccelnbError
        Rank 0 does not make the call, or it takes all ranks and one has gone by. It is raised at
        once.
    """
    process = PartialState()
    if not process.use_distributed or whereabouts.store() is None:
        yield Meeting(call, said)
        return
    _own.number += 1
    asked = f"{call} {_site()} {target}"
    mine = replace(whereabouts.here(), call=asked, number=_own.number)
    whereabouts.tell(mine)
    try:
        watch = _Watch(mine, 0 if in_step else _LONG_DOUBT if takes_all else _DOUBT)
        if process.is_main_process:
            met = Meeting(call, said, place=mine.packed())
            _lead(met, mine, watch, bool(takes_all))
        else:
            met = _follow(call, mine, watch)
        _own.last, _own.came = met.token, met.came
        if met.of_everyone:
            yield met
            return
        if takes_all:
            raise _incomplete(met, takes_all)
        with on_this_rank_alone():
            yield met
    finally:
        whereabouts.tell()


@dataclass
class _Own:
    """What this rank remembers."""

    number: int = 0  # of its calls
    last: str = ""  # the token of the meeting that it was at last
    came: dict[str, int] = field(default_factory=dict)  # to that


_own = _Own()


class _Watch:
    """Tells whether ranks have gone by the place of this one."""

    def __init__(self, mine: Place, doubt: float) -> None:
        self._mine = mine
        self._doubt = doubt
        self._seen: dict[int, tuple[Place, float]] = {}

    def has_gone_by(self, rank: int, place: Place) -> bool:
        if place.is_past(self._mine):
            return True
        if not place.seems_past(self._mine):
            return False
        now = time.monotonic()
        before, since = self._seen.get(rank, (None, now))
        if before != place:
            self._seen[rank] = place, now
            since = now
        return now - since >= self._doubt


# ---- rank 0 ----


def _lead(met: Meeting, mine: Place, watch: _Watch, takes_all: bool) -> None:
    """Find out who makes the call, and tell them."""
    others = list(range(1, PartialState().num_processes))
    end = time.monotonic() + _PATIENCE
    for _ in _pauses():
        known = whereabouts.places(others)
        calling = [r for r in known if known[r].call and known[r].number != _own.came.get(str(r))]
        came = [rank for rank in calling if _comes(known[rank], mine)]
        absent = [rank for rank in known if rank not in came]
        # Who makes another call waits there for this rank.
        gone = [r for r in absent if r in calling or watch.has_gone_by(r, known[r])]
        if len(came) + len(gone) == len(others) or (gone and takes_all):
            break
        if time.monotonic() > end and not takes_all:
            break
    met.came = {str(rank): known[rank].number for rank in came}
    told = {rank: known[rank].told if rank in gone else "has not come" for rank in others}
    met.missing = {str(rank): told[rank] for rank in others if rank not in came}
    whereabouts.store().set(_KEY, json.dumps(asdict(met)))


def _comes(place: Place, mine: Place) -> bool:
    """Return whether a rank makes this very call: at one point of the program."""
    if not place.call or place.run != mine.run:
        return False
    (its_call, its_site, its_target), (call, site, target) = _split(place), _split(mine)
    same = its_call == call and its_site == site
    return same and (its_target == target or not place.seems_past(mine))


def _split(place: Place) -> list[str]:
    return place.call.split(" ", 2)


def _site() -> str:
    """Return the lines of the program that lead to the call, as a word."""
    lines: list[Any] = []
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and "<module>" not in lines[-1:]:
        if not _is_ours(frame.f_globals.get("__name__", "")):
            lines += [frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name]
        frame = frame.f_back
    return f"{zlib.crc32(repr(lines).encode()):x}"


def _is_ours(module: str) -> bool:
    return module == "contextlib" or module.partition(".")[0] == __name__.partition(".")[0]


def _incomplete(met: Meeting, why: str) -> AccelnbError:
    absent = "; ".join(f"rank {rank} {does}" for rank, does in met.missing.items())
    return AccelnbError(
        f"{met.call}() was called on rank 0, and {absent}: {why}; call it on every rank, not only "
        "if accelerator.is_main_process"
    )


# ---- the others ----


def _follow(call: str, mine: Place, watch: _Watch) -> Meeting:
    """Wait until rank 0 has found out who makes the call."""
    rank = PartialState().process_index
    for _ in _pauses():
        leader = whereabouts.places([0]).get(0, Place())  # before the meeting that it has left
        latest = _latest()
        if latest is not None and latest.came.get(str(rank)) == mine.number:
            return latest
        gone = watch.has_gone_by(0, leader) and not _comes(leader, mine)
        if latest is not None and latest.token != _own.last and str(rank) in latest.missing:
            place = Place.unpacked(latest.place)
            if _is_late(mine, place) and (gone or place.passes_as(mine)):
                return latest
        if gone:
            raise AccelnbError(
                f"{call}() was called on rank {rank}, and rank 0 {leader.told}: call it on every "
                "rank, or on the main process"
            )
    raise AssertionError("the pauses end never")


def _is_late(mine: Place, place: Place) -> bool:
    """Return whether this rank makes a call that rank 0 has made at `place` without it."""
    (call, site, target), (its_call, its_site, its_target) = _split(mine), _split(place)
    same = (call, target) == (its_call, its_target)
    return same and (site == its_site or target != "")


def _latest() -> Meeting | None:
    store = whereabouts.store()
    if not store.check([_KEY]):
        return None
    return Meeting(**json.loads(store.get(_KEY)))


def _pauses() -> Iterator[None]:
    """Wait between rounds: briefly at first, for most ranks come at once."""
    pause = _FIRST_PAUSE
    while True:
        yield
        time.sleep(pause)
        pause = min(1.5 * pause, _LONGEST_PAUSE)
