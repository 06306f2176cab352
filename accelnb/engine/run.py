"""One cell on the ranks: what it emits while it runs, how it is stopped, what it leaves."""

from __future__ import annotations

import collections
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from accelnb.engine.events import Event, Progress, Skipped, Stalled, Stream, Streamed
from accelnb.engine.failure import Failure, RankError, RunInterrupted, name_ranks, stopped_lines
from accelnb.engine.metrics import Series, Streams
from accelnb.engine.run_log import RunLog
from accelnb.engine.serialization.pack import Packed, Received
from accelnb.engine.wire.reports import Packet
from accelnb.errors import AccelnbError

# Text that may wait for the view; past that it is in the log only.
_TEXT_WAITING = 8 << 20
_EVENTS_WAITING = 10_000


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

    def __reversed__(self) -> Iterator[Any]:
        return (self[rank] for rank in reversed(self._load))

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
    """A cell (or function call) on some ranks, under way or over.

    A ``%%distributed --detach`` cell returns it at once. Its `metrics` and its logs can be
    read while it runs.

    Attributes
    ----------
    ranks : tuple of int
        Those that take part.
    streamed : Streams
        What the ranks streamed with `accelnb.stream`, by name.
    log : RunLog
        Where the whole output lies on disk.
    """

    def __init__(
        self,
        ranks: Sequence[int],
        log: RunLog,
        stop: Callable[[Run, str], None],
        timeout: float | None = None,
        stall: float | None = None,
        lent: Iterable[Packed | None] = (),
        advice: Callable[[Failure], str | None] | None = None,
    ) -> None:
        self.ranks = tuple(ranks)
        self.log = log
        self.streamed = Streams()
        self.started = time.monotonic()
        self.ended: float | None = None
        self.failures: list[Failure] = []
        self.replaced: list[int] = []  # ranks whose variables are lost
        self.without_values: list[int] = []  # ranks that did not get what they were sent
        self.assigned: dict[int, list[str]] = {}  # names that each rank bound
        self.stopped_by: str | None = None  # "user", "timeout" or "failure"
        self.stopping = False  # the user has asked for it
        self.deadline = self.started + timeout if timeout else None
        self.stall = stall
        self.received: dict[int, Received] = {}  # what each rank brought back
        self.missing: dict[str, list[int]] = {}  # names to pull that ranks do not have
        self._loaded: dict[int, Any] = {}  # what was received, rebuilt
        self._pending = set(ranks)
        self._lent = [pack for pack in lent if pack is not None]
        self._timeout = timeout
        self._stop = stop
        self._advice = advice
        self._events: collections.deque[Event] = collections.deque()
        self._changed = threading.Condition()  # guards the events
        self._text_waiting = 0
        self._skipping: dict[tuple[int, str], int] = {}
        self._abandoned = False

    # ---- for the user ----

    @property
    def metrics(self) -> Mapping[str, Series]:
        """Return the streamed scalars: ``run.metrics["loss"]`` is a table by step and rank."""
        return self.streamed.scalars()

    def __getitem__(self, name: str) -> Series:
        """Return what was streamed under `name`, of whatever kind."""
        return self.streamed[name]

    @property
    def done(self) -> bool:
        """Whether every rank has finished, well or badly."""
        return self.ended is not None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the run is over, at most `timeout` seconds; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self.done, timeout)

    def interrupt(self) -> None:
        """Stop the cell on every rank; it is over within 3 s, whatever the ranks do."""
        self.stopping = True
        self._stop(self, "user")

    @property
    def result(self) -> RankResults:
        """Wait for the run and return each rank's last value.

        Raises
        ------
        RankError, RunInterrupted
            As the run ended.
        """
        self.wait()
        self.raise_if_failed()
        return self.results()

    def logs(self, rank: int, stream: str = "stdout") -> str:
        """Return all that a rank has written so far to ``stdout`` or ``stderr``."""
        if rank not in self.ranks:
            raise AccelnbError(f"rank {rank} takes no part in this run; {name_ranks(self.ranks)}")
        return self.log.read(rank, stream)

    @property
    def state(self) -> str:
        if not self.done:
            return "running"
        if self.stopped_by == "user":
            return "stopped"
        return "failed" if self.failures else "done"

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.started

    def __repr__(self) -> str:
        streamed = f", streamed {', '.join(self.streamed)}" if self.streamed else ""
        return f"<Run on {name_ranks(self.ranks)}: {self.state}, {self.seconds:.1f} s{streamed}>"

    # ---- for a view ----

    @property
    def finished(self) -> bool:
        """Whether every rank is done and every event was taken."""
        return self.done and not self._events

    def next_event(self, timeout: float) -> Event | None:
        """Return the next event, or None if there is none for `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._events or self.done, timeout)
            if not self._events:
                return None
            event = self._events.popleft()
            if isinstance(event, Stream):
                self._text_waiting -= len(event.text)
            return event

    def abandon(self) -> None:
        """Take no more events; what still arrives goes to the log only."""
        with self._changed:
            self._abandoned = True
            self._events.clear()

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
                try:
                    loaded[rank] = received.load()
                except Exception as error:  # of a class's own code, or a module is not here
                    raise AccelnbError(
                        f"rank {rank}'s values cannot be rebuilt in the notebook: "
                        f"{type(error).__name__}: {error}"
                    ) from error
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

    # ---- for the router's thread, which never waits here ----

    @property
    def pending(self) -> frozenset[int]:
        return frozenset(self._pending)

    def deliver(self, event: Event) -> None:
        """Log `event` and hand it to the view, unless that is far behind."""
        if isinstance(event, Stream):
            self.log.write(event.rank, event.name, event.text)
        elif isinstance(event, Progress):
            for bar in event.bars:
                if bar.closed and bar.text:
                    self.log.write(event.rank, "stderr", bar.text + "\n")
        with self._changed:
            if self._abandoned:
                return
            if isinstance(event, Stream):
                self._queue_text(event)
            elif len(self._events) < _EVENTS_WAITING or isinstance(event, Stalled):
                self._events.append(event)
            self._changed.notify_all()

    def take_streamed(self, rank: int, packets: Sequence[Packet], dropped: int) -> None:
        names = self.streamed.take(rank, packets, dropped)
        self.deliver(Streamed(rank, names))

    def rank_done(self, rank: int) -> None:
        self._pending.discard(rank)

    def finish(self) -> None:
        """Be over: every rank has finished. Whoever waits for the run goes on at once."""
        for pack in self._lent:
            pack.close()
        self.log.close()
        with self._changed:
            for key, lines in self._skipping.items():
                self._events.append(Skipped(*key, lines))
            self._skipping.clear()
            self.ended = time.monotonic()
            self._changed.notify_all()

    def rank_failed(self, failure: Failure) -> None:
        if failure.rank in self._pending:
            if self._advice is not None and (advice := self._advice(failure)):
                failure = dataclasses.replace(failure, evalue=f"{failure.evalue}; {advice}")
            self.failures.append(failure)
        self.rank_done(failure.rank)

    def _queue_text(self, event: Stream) -> None:
        key = (event.rank, event.name)
        if self._text_waiting + len(event.text) > _TEXT_WAITING:
            self._skipping[key] = self._skipping.get(key, 0) + event.text.count("\n")
            return
        if key in self._skipping:
            # Go on with a whole line.
            _, newline, text = event.text.partition("\n")
            if not newline:
                return
            self._events.append(Skipped(*key, self._skipping.pop(key) + 1))
            event = Stream(*key, text)
        self._text_waiting += len(event.text)
        self._events.append(event)
