"""Says in one line that a collective waits for a rank which has gone by.

A thread looks now and then whether the main thread is still in the collective in which it was.
"""

from __future__ import annotations

import sys
import threading
import time
import types
from pathlib import Path

from accelnb.training import whereabouts
from accelnb.training.whereabouts import Place

_PAUSE = 2.0  # seconds; who waits longer than one of them is looked at
_WAITING = ("communication", "process_control", "reduction")  # modules that wait


class _Watch:
    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="accelnb-missed-collectives", daemon=True
            )
            self._thread.start()

    def _run(self) -> None:
        seen = told = -1
        while True:
            time.sleep(_PAUSE)
            place = whereabouts.here()
            call = waiting_in(threading.main_thread().ident)
            if call and place.collectives == seen != told:
                line = _line(call)
                told = seen if line else told
                if line:
                    print(line, file=sys.stderr, flush=True)
            seen = place.collectives if call else -1


def waiting_in(thread: int | None) -> str:
    """Return the call of this package in which a thread waits for other ranks, with its line."""
    frame: types.FrameType | None = sys._current_frames().get(thread or 0)
    ours, waits = "", False
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] == __name__.partition(".")[0]:
            ours = frame.f_code.co_name
            waits |= module.rpartition(".")[2] in _WAITING
        elif ours:
            break
        frame = frame.f_back
    if not waits or frame is None:
        return ""
    return f"{ours}() ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"


def _line(call: str) -> str:
    """Return who has gone by and what to do; nothing if nobody is known to have."""
    store, mine = whereabouts.store(), whereabouts.before_collective()
    if store is None:
        return ""
    try:
        known = whereabouts.places(whereabouts.others())
    except RuntimeError:  # the store's server has ended
        return ""
    gone = {rank: place for rank, place in known.items() if _is_elsewhere(place, mine)}
    if not gone:
        return ""
    who = "; ".join(f"rank {rank} {place.told}" for rank, place in gone.items())
    return f"accelnb: {call} waits for all ranks, and {who}: call it on every rank"


def _is_elsewhere(place: Place, mine: Place) -> bool:
    if place.run != mine.run or place.collectives != mine.collectives:
        return False
    return place.is_past(mine) or bool(place.call)


_watch = _Watch()


def begin() -> None:
    """Look from now on."""
    _watch.begin()
