"""One cell on the ranks: what it emits while it runs, how it is stopped, what it leaves."""

from __future__ import annotations

import contextlib
import functools
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from accelnb.engine.tensors import Packed, Received
from accelnb.errors import AccelnbError

# A run's events that may wait for the view; past that the ranks wait.
_EVENTS_WAITING = 512
DIED = "RankDied"


@dataclass(frozen=True)
class Stream:
    """Text that a rank wrote; `name` is ``stdout`` or ``stderr``."""

    rank: int
    name: str
    text: str


@dataclass(frozen=True)
class Display:
    """A Jupyter display message of a rank: display_data, execute_result, clear_output ..."""

    rank: int
    kind: str
    content: dict[str, Any]


Event = Stream | Display


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
        for failures in _equal(self._primary(), lambda f: (f.ename, f.evalue, f.where)):
            first = failures[0]
            where = f" ({first.where})" if first.where else ""
            said = f": {first.evalue}" if first.evalue else ""
            said = f" {first.evalue}" if first.ename == DIED else f": {first.ename}{said}"
            lines.append(f"{name_ranks(f.rank for f in failures)}{said}{where}")
        dead = [f.rank for f in self.failures if f.ename == DIED]
        if dead:
            its = "their" if len(dead) > 1 else "its"
            lines.append(f"{name_ranks(dead)} will be replaced; {its} variables are lost")
        return "\n".join(lines)

    def _render_traceback_(self) -> list[str]:
        lines = []
        for failures in _equal(self._primary(), lambda f: f.traceback):
            if failures[0].traceback:
                lines += [f"--- {name_ranks(f.rank for f in failures)} ---"]
                lines += failures[0].traceback
        lines += stopped_lines(f for f in self.failures if f.secondary)
        return [*lines, f"RankError: {self}"]


class RunInterrupted(KeyboardInterrupt):
    """The user stopped a cell. The ranks keep their variables unless the text says otherwise."""

    def _render_traceback_(self) -> list[str]:
        return [f"KeyboardInterrupt: {self}"]


class RankResults(Sequence[Any]):
    """What each rank of a run brought back; ``results[2]`` is rank 2's value.

    A value is rebuilt in the notebook when it is first asked for.

    Parameters
    ----------
    load
        For each rank, a function that makes its value.
    """

    def __init__(self, load: Mapping[int, Callable[[], Any]]) -> None:
        self._load = dict(sorted(load.items()))
        self._values: dict[int, Any] = {}

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(self._load)

    def __len__(self) -> int:
        return len(self._load)

    def __iter__(self) -> Iterator[Any]:
        return (self[rank] for rank in self._load)

    def __getitem__(self, rank: Any) -> Any:
        if isinstance(rank, slice):
            return [self[r] for r in self.ranks[rank]]
        if -len(self) <= rank < 0:
            rank = self.ranks[rank]
        if rank not in self._load:
            raise IndexError(f"rank {rank} brought nothing back; {name_ranks(self._load)} did")
        if rank not in self._values:
            self._values[rank] = self._load[rank]()
        return self._values[rank]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        return _results_of, ({rank: self[rank] for rank in self._load},)

    def __repr__(self) -> str:
        return f"[{', '.join(f'{rank}: {self[rank]!r}' for rank in self._load)}]"


def _results_of(values: dict[int, Any]) -> RankResults:
    return RankResults({rank: lambda value=value: value for rank, value in values.items()})


class Run:
    """A cell (or function call) under way on `ranks`.

    The group's link thread delivers what the ranks send; the notebook takes it with
    `next_event` until `finished`, then asks for `results`.
    """

    def __init__(
        self,
        ranks: Sequence[int],
        timeout: float | None,
        stop: Callable[[Run, str], None],
        lent: Iterable[Packed | None] = (),
    ) -> None:
        self.ranks = tuple(ranks)
        self.failures: list[Failure] = []
        self.replaced: list[int] = []  # ranks whose variables are lost
        self.stopped_by: str | None = None  # "user", "timeout" or "failure"
        self._pending = set(ranks)
        self.received: dict[int, Received] = {}  # what each rank brought back
        self._loaded: dict[int, Any] = {}  # the same, rebuilt
        self._lent = [pack for pack in lent if pack is not None]
        self._timeout = timeout
        self.deadline = time.monotonic() + timeout if timeout else None
        self._stop = stop
        self._events: queue.Queue[Event | None] = queue.Queue(_EVENTS_WAITING)
        self._finished = threading.Event()
        self._abandoned = False

    # ---- the notebook's side ----

    @property
    def finished(self) -> bool:
        """Whether every rank is done and every event was taken."""
        return self._finished.is_set() and self._events.empty()

    def next_event(self, timeout: float) -> Event | None:
        """Return the next event, or None if there is none for `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not self.finished and (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                if event := self._events.get(timeout=min(left, 0.5)):
                    return event
        return None

    def interrupt(self) -> None:
        """Stop the cell on every rank; it is over within 3 s, whatever the ranks do."""
        self._stop(self, "user")

    def abandon(self) -> None:
        """Take no more events; what still arrives is dropped."""
        self._abandoned = True

    def wait(self, timeout: float | None = None) -> bool:
        """Take and drop events until the run is over; return whether it is."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.finished and (deadline is None or time.monotonic() < deadline):
            self.next_event(0.05)
        return self.finished

    def raise_if_failed(self) -> None:
        """Raise what the cell ended with, if not with success.

        Raises
        ------
        RankError
            A rank raised, ended or was stopped by the time limit.
        RunInterrupted
            The user stopped the run.
        """
        at_fault = [failure for failure in self.failures if not failure.secondary]
        if self.stopped_by == "user" and not at_fault:
            raise RunInterrupted(self._interrupted_text())
        if self.stopped_by == "timeout" and not at_fault:
            raise RankError(
                [
                    Failure(f.rank, "Timeout", f"not done after {self._timeout:g} s", (), f.where)
                    for f in self.failures
                ]
            )
        if self.failures:
            raise RankError(self.failures)

    def results(self, part: str = "result") -> RankResults:
        """Return each rank's value of ``result``, or of a name that was pulled."""
        loaded = self._loaded

        def load(rank: int, received: Received) -> Any:
            if rank not in loaded:
                loaded[rank] = received.load()
            return loaded[rank][part]

        return RankResults(
            {rank: functools.partial(load, rank, it) for rank, it in self.received.items()}
        )

    def _interrupted_text(self) -> str:
        kept = [rank for rank in self.ranks if rank not in self.replaced]
        text = []
        if kept:
            text.append(f"stopped {name_ranks(kept)}; variables are kept")
        if self.replaced:
            text.append(f"{name_ranks(self.replaced)} did not answer: replaced, variables lost")
        return "\n".join(["; ".join(text), *stopped_lines(self.failures)])

    # ---- the link thread's side ----

    @property
    def pending(self) -> frozenset[int]:
        return frozenset(self._pending)

    def deliver(self, event: Event) -> None:
        """Hand `event` to the notebook; wait while it is far behind."""
        while not self._abandoned:
            try:
                return self._events.put(event, timeout=0.2)
            except queue.Full:
                continue

    def rank_done(self, rank: int) -> None:
        self._over(rank)

    def rank_failed(self, failure: Failure) -> None:
        if failure.rank in self._pending:
            self.failures.append(failure)
        self._over(failure.rank)

    def _over(self, rank: int) -> None:
        self._pending.discard(rank)
        if not self._pending:
            for pack in self._lent:
                pack.close()
            self._finished.set()
            with contextlib.suppress(queue.Full):
                self._events.put_nowait(None)  # wakes whoever waits for an event


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
        for group in _equal((f for f in failures if f.ename != DIED), lambda f: f.where)
    ]


def _equal(failures: Iterable[Failure], key: Callable[[Failure], Any]) -> list[list[Failure]]:
    groups: dict[Any, list[Failure]] = {}
    for failure in failures:
        groups.setdefault(key(failure), []).append(failure)
    return list(groups.values())
