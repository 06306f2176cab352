"""How a run ends badly: what failed on which rank, said as the user needs to read it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from accelnb.errors import AccelnbError

DIED = "RankDied"
T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """Why a cell ended badly on one rank."""

    rank: int
    ename: str
    evalue: str
    traceback: tuple[str, ...] = ()
    where: str | None = None  # e.g. "Cell In[5], line 7"
    # It ended because another rank failed or the user stopped it, not by its own fault.
    secondary: bool = False
    lost_peer: bool = False  # a collective found that another rank had gone


class RankError(AccelnbError):
    """A cell failed on one or more ranks.

    Attributes
    ----------
    failures : tuple of Failure
        One for each rank that did not finish, those at fault first.
    """

    def __init__(self, failures: Sequence[Failure]) -> None:
        if not all(f.secondary or f.lost_peer for f in failures):
            failures = [replace(f, secondary=f.secondary or f.lost_peer) for f in failures]
        self.failures = tuple(sorted(failures, key=lambda f: (f.secondary, f.rank)))
        super().__init__(self._headline())

    @property
    def ranks(self) -> tuple[int, ...]:
        """Return the ranks that failed by their own fault."""
        return tuple(failure.rank for failure in self._primary())

    def _primary(self) -> list[Failure]:
        return [f for f in self.failures if not f.secondary] or list(self.failures)

    def _headline(self) -> str:
        lines = []
        for failures in grouped(self._primary(), lambda f: (f.ename, f.evalue, f.where)):
            first = failures[0]
            where = f" ({first.where})" if first.where else ""
            said = f": {first.evalue}" if first.evalue else ""
            if first.ename == DIED:
                said = f" {first.evalue}"
                if len(failures) > 1:
                    said = said.replace(" was ", " were ", 1).replace(
                        "its process", "their process"
                    )
            elif first.ename != AccelnbError.__name__:  # which says all itself
                said = f": {first.ename}{said}"
            line, more = _first_line(f"{name_ranks(f.rank for f in failures)}{said}")
            lines.append(f"{line}{where}{more}")
        dead = [f.rank for f in self.failures if f.ename == DIED]
        if dead:
            its = "their" if len(dead) > 1 else "its"
            lines.append(f"{name_ranks(dead)} will be replaced; {its} variables are lost")
        return "\n".join(lines)

    def _render_traceback_(self) -> list[str]:
        lines = []
        for failures in grouped(self._primary(), lambda f: f.traceback):
            if failures[0].traceback:
                lines += [f"--- {name_ranks(f.rank for f in failures)} ---"]
                lines += failures[0].traceback
        lines += stopped_lines(f for f in self.failures if f.secondary)
        return [*lines, f"RankError: {self}"]


class RunInterrupted(KeyboardInterrupt):
    """The user stopped a cell. The ranks keep their variables unless the text says otherwise."""

    def _render_traceback_(self) -> list[str]:
        return [f"KeyboardInterrupt: {self}"]


def died(rank: int, code: int, last_output: str, secondary: bool = False) -> Failure:
    """Return the failure of a rank process that ended with `code` (negative: by a signal)."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        said = f"was killed by {name}"
        if name == "SIGKILL":
            said += " (the system's out-of-memory killer, or another process)"
    else:
        said = f"ended its process with exit code {code}"
    last = _last_words(last_output)
    if last:
        said += "; its last output:\n" + "\n".join(f"  {line}" for line in last)
    return Failure(rank, DIED, said, secondary=secondary)


def _last_words(output: str, most: int = 8) -> list[str]:
    lines = output.strip().splitlines()
    for at, line in enumerate(lines):
        if line.startswith("Fatal Python error"):  # faulthandler: what follows is deeper and deeper
            return lines[at : at + most]
    return lines[-most:]


def name_ranks(ranks: Iterable[int]) -> str:
    """Return ``rank 1`` or ``ranks 0, 2-3``."""
    ordered = sorted(ranks)
    return f"rank{'s' * (len(ordered) != 1)} {rank_list(ordered, ', ')}"


def rank_list(ranks: Sequence[int], separator: str = ",") -> str:
    """Return sorted `ranks` with runs of them shortened: ``0,2-3``."""
    parts: list[list[int]] = []
    for rank in ranks:
        if parts and parts[-1][-1] == rank - 1:
            parts[-1][1:] = [rank]
        else:
            parts.append([rank])
    return separator.join("-".join(map(str, part)) for part in parts)


def stopped_lines(failures: Iterable[Failure]) -> list[str]:
    """Return a line for each place where ranks were stopped."""
    return [
        f"{name_ranks(f.rank for f in group)} stopped at {group[0].where or 'an unknown place'}"
        for group in grouped((f for f in failures if f.ename != DIED), lambda f: f.where)
    ]


def _first_line(text: str) -> tuple[str, str]:
    """Return the first line of a text, and what comes after it with its line break."""
    line, line_break, more = text.partition("\n")
    return line, line_break + more


def grouped(items: Iterable[T], key: Callable[[T], Any]) -> list[list[T]]:
    """Return the items with equal keys together, in the order of their first."""
    groups: dict[Any, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())
