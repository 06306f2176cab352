"""How a launch ended badly, said once: which rank, what, where."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from accelnb.engine.failure import Failure, died, name_ranks
from accelnb.worker.lost_peer import LOST_PEER

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

_ELSEWHERE = (
    "another rank had ended before that: without an error, or on another machine, whose output says"
)


def exit_code(failures: Mapping[int, ProcessFailure]) -> int:
    """Return the code of the rank that failed first, as a shell has it."""
    first = failures[_in_order(failures)[0]]
    if _what_it_said(first):
        return 1  # whatever ended its process after that
    return 128 - first.exitcode if first.exitcode < 0 else first.exitcode


def report(failures: Mapping[int, ProcessFailure], whose_lines: str = "") -> str:
    """Return what is shown of ranks that failed: each traceback once, then a line for each error.

    Ranks that only lost another, or that were stopped for it, are left out where it is known.
    `whose_lines` comes last where there is a traceback.
    """
    found = [_failure(rank, failures[rank]) for rank in _in_order(failures)]
    primary = [failure for failure in found if not (failure.lost_peer or failure.secondary)]
    lines = []
    for failure, ranks in _equal(primary or found):
        if failure.traceback:
            lines += [f"--- {ranks} ---", *failure.traceback]
    for failure, ranks in _equal(primary or found):
        lines.append(f"accelnb: {ranks}{_said(failure)}")
    if all(failure.lost_peer for failure in found):
        lines.append(f"accelnb: {_ELSEWHERE}")
    if whose_lines and any(failure.traceback for failure in primary or found):
        lines.append(whose_lines)
    return "\n".join(lines)


def _in_order(failures: Mapping[int, ProcessFailure]) -> list[int]:
    def when(rank: int) -> tuple[bool, float, int]:
        failure = _failure(rank, failures[rank])
        time = _what_it_said(failures[rank]).get("time", float(failures[rank].timestamp))
        return failure.lost_peer or failure.secondary, time, rank

    return sorted(failures, key=when)


def _failure(rank: int, failure: ProcessFailure) -> Failure:
    said = _what_it_said(failure)
    if not said:
        was_stopped = failure.exitcode == -signal.SIGTERM  # by the launcher, once another failed
        return died(rank, failure.exitcode, "", secondary=was_stopped)
    text = said["extraInfo"]["py_callstack"].rstrip("\n")
    return Failure(
        rank,
        said["ename"] if text else "",
        said["evalue"],
        tuple(text.splitlines()),
        said["place"],
        lost_peer=lost_another_rank(said["evalue"]),
    )


def _what_it_said(failure: ProcessFailure) -> dict[str, Any]:
    """Return what the rank wrote of its error; nothing if a signal or `sys.exit` ended it."""
    message = failure.error_file_data.get("message")
    return message if isinstance(message, dict) and "place" in message else {}


def lost_another_rank(said: str) -> bool:
    """Return whether an error's text is that of a collective whose other side has gone."""
    return bool(LOST_PEER.search(said))


def _said(failure: Failure) -> str:
    if failure.where is None:
        return f" {failure.evalue}"
    said = failure.evalue.partition("\n")[0] if failure.traceback else failure.evalue
    what = ": ".join(filter(None, (failure.ename, said)))
    return f": {what} ({failure.where})"


def _equal(failures: list[Failure]) -> list[tuple[Failure, str]]:
    """Return each failure once, with the ranks that had it."""
    groups: dict[Failure, list[int]] = {}
    for failure in failures:
        groups.setdefault(dataclasses.replace(failure, rank=0), []).append(failure.rank)
    return [(failure, name_ranks(ranks)) for failure, ranks in groups.items()]
