"""What is known of a run, for a view to draw: pure data, fed with the run's events."""

from __future__ import annotations

import dataclasses
import statistics
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from accelnb.engine.events import (
    Display,
    Event,
    Progress,
    Skipped,
    Stalled,
    Stream,
    Streamed,
    Usage,
)
from accelnb.engine.failure import RankError, RunInterrupted
from accelnb.engine.run import Run
from accelnb.notebook.views.live_view.log import NEWEST, Log
from accelnb.notebook.views.progress_bars import Bars
from accelnb.notebook.views.sharing import place_of_each, sharing_in_words
from accelnb.notebook.views.streamed_values import Values
from accelnb.options.config import LaunchConfig


@dataclass
class Seen:
    """How much of a run's state someone has been given."""

    lines: int = 0
    points: dict[tuple[str, int], int] = field(default_factory=dict)
    histograms: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Bounds:
    """How much is given at once."""

    lines: int = NEWEST
    characters: int = 2_000_000
    points: int = 40_000


class RunState:
    """Rows, lines, bars and values of one run.

    Events come in one thread, messages of a front end in another: who reads or writes holds
    `lock`.

    Parameters
    ----------
    config
        What the run was started with.
    title
        The cell's, such as ``Cell In[5]``.
    """

    def __init__(self, run: Run, config: LaunchConfig, title: str = "") -> None:
        # A run that nobody needs is to go at once, with its values.
        self._run = weakref.ref(run)
        _gathered[run] = self
        self.config = config
        self.title = title
        self.lock = threading.RLock()
        self.log = Log(run.ranks, config.logs, run.log.folder)
        self.bars = Bars()
        self.values = Values(run.streamed)
        self.displays: list[Any] = []  # where it is shown and kept up to date
        self._places = place_of_each(config)
        self.version = 0  # grows when something changes
        self._memory: dict[int, Usage] = {}
        self._peak: dict[int, int] = {}
        self._stall: Stalled | None = None
        self._told_failures = 0

    # ---- taking ----

    def take(self, event: Event) -> None:
        self.version += 1
        if isinstance(event, Stalled):
            self._stall = event
            return
        if isinstance(event, Usage):
            self._memory[event.rank] = event
            self._peak[event.rank] = max(self._peak.get(event.rank, 0), event.memory or 0)
            return
        if self.state == "running":  # not because it is being stopped
            self._stall = None
        if isinstance(event, Streamed):
            self.values.take(event.rank, event.names)
        elif isinstance(event, Progress):
            self.bars.take(event)
        elif isinstance(event, Stream | Skipped | Display):
            self.log.take(event)

    def refresh(self, now: float) -> None:
        """Put in order what arrived."""
        end = self.log.end
        self.log.refresh(now)
        over = len(self.run.ranks) - len(self.run.pending)
        self.version += self.log.end != end or over != self._told_failures
        self._told_failures = over
        self.version += self.values.is_drawing

    def finish(self, last_words: Sequence[str] = ()) -> None:
        """Take note that no more comes; `last_words` are lines to end with."""
        self.values.draw_all()
        self.log.finish()
        for line in last_words:
            self.log.say(line)
        if self.run.log.problem:
            self.log.say(self.run.log.problem)
        self.version += 1

    def is_drawing(self, now: float) -> bool:
        """Return whether there will be more to show soon, without another event."""
        with self.lock:
            return self.log.is_held(now) or self.values.is_drawing

    # ---- giving ----

    @property
    def run(self) -> Run:
        run = self._run()
        assert run is not None, "whoever shows a run keeps it"
        return run

    @property
    def is_rich(self) -> bool:
        """Whether there is more to show than lines."""
        return bool(self.values or self.bars or self._stall)

    @property
    def state(self) -> str:
        """Return ``running``, ``stopping``, ``done``, ``failed`` or ``stopped``."""
        stops = self.run.stopping or self.run.stopped_by
        return "stopping" if stops and not self.run.done else self.run.state

    def info(self, can_stop: bool) -> dict[str, Any]:
        return {
            "title": self.title,
            "ranks": list(self.run.ranks),
            "device": self.config.device,
            "precision": self.config.precision,
            "sharing": self.sharing,
            "can_stop": can_stop,
            "log_folder": str(self.run.log.folder),
        }

    def status(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        steps = [row["step"] for row in rows if row["step"] is not None]
        rates = [row["rate"] for row in rows if row["rate"] is not None]
        return {
            "state": self.state,
            "seconds": round(self.run.seconds, 3),
            "banners": self.banners(),
            "rate": statistics.median(rates) if rates else None,
            "step": min(steps) if steps else None,
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each rank."""
        failed = {failure.rank: failure.secondary for failure in list(self.run.failures)}
        pending = self.run.pending
        return [self._row(rank, rank in pending, failed.get(rank)) for rank in self.run.ranks]

    def banners(self) -> list[dict[str, str]]:
        """Return what the user must know at once."""
        said = []
        if self._stall is not None and self.state != "done":
            said.append({"kind": "stall", "text": self._stall.report})
        said += self._ending()
        for rank, count in sorted(self.run.streamed.dropped.items()):
            text = f"rank {rank} dropped {count:,} values: the notebook was too slow"
            said.append({"kind": "note", "text": text})
        return said

    def news(self, seen: Seen, bounds: Bounds = Bounds()) -> dict[str, Any]:
        """Return the lines and values that are not `seen`, and note in it that they are."""
        lines = self.log.since(seen.lines, bounds.lines, bounds.characters)
        first = lines[0].number if lines else self.log.end
        news = {
            "first_line": first,
            "lines": [[list(line.ranks), line.stream, line.text] for line in lines],
            "skipped": max(0, first - max(seen.lines, self.log.begin)),
            "points": self.values.points(seen.points, bounds.points),
            "histograms": self.values.histograms(seen.histograms),
            "images": self.values.images(seen.images),
        }
        seen.lines = self.log.end
        return news

    def leaves_out(self, news: Mapping[str, Any]) -> bool:
        """Return whether bounds cut `news`, which was to be all that there is."""
        if news["first_line"] > self.log.start:
            return True
        given = sum(len(points) for of in news["points"].values() for points in of.values())
        return given < self.values.count()

    @property
    def sharing(self) -> str:
        """How all ranks share a model, in words; empty if each has one of its own."""
        is_whole = len(self.run.ranks) == len(self._places)
        return sharing_in_words(self.config) if is_whole else ""

    def peak_memory(self, rank: int) -> int | None:
        return self._peak.get(rank)

    # ---- inside ----

    def _row(self, rank: int, pending: bool, secondary: bool | None) -> dict[str, Any]:
        step, rate = self.values.step_and_rate(rank)
        bar = self.bars.newest(rank)
        if step is None and bar is not None:
            step, rate = int(bar.done), bar.rate
        usage = self._memory.get(rank)
        return {
            "rank": rank,
            "place": self._places[rank] if rank < len(self._places) else "",
            "state": self._state_of(rank, pending, secondary),
            "step": step,
            "rate": rate,
            "memory": usage.memory if usage else None,
            "device_memory": usage.device_memory if usage else None,
            "line": self.log.last_line(rank)[:1000],
        }

    def _state_of(self, rank: int, pending: bool, secondary: bool | None) -> str:
        if secondary is not None:
            return "stopped" if secondary or self.run.stopped_by == "user" else "failed"
        if not pending:
            return "done"
        if self._stall is not None and rank in self._stall.waits:
            return self._stall.waits[rank]
        return "stopping" if self.state == "stopping" else "running"

    def _ending(self) -> list[dict[str, str]]:
        """Say in one line that a rank failed. That the user stopped the run is no news."""
        try:
            if self.run.done:
                self.run.raise_if_failed()
            elif any(not failure.secondary for failure in list(self.run.failures)):
                raise RankError(list(self.run.failures))
        except RankError as error:
            first = str(error).split("\n")[0].removesuffix("; its last output:")
            return [{"kind": "error", "text": first}]
        except RunInterrupted:
            pass
        return []


_gathered: weakref.WeakKeyDictionary[Run, RunState] = weakref.WeakKeyDictionary()


def gathered_of(run: Run) -> RunState | None:
    """Return what a view has gathered of `run`, if one did."""
    return _gathered.get(run)


def state_of(run: Run) -> RunState:
    """Return what a view has gathered of `run`, else what its log still says."""
    if (gathered := gathered_of(run)) is not None:
        return gathered
    state = RunState(run, dataclasses.replace(LaunchConfig(), device=""))
    for rank in run.ranks:
        for stream in ("stdout", "stderr"):
            state.take(Stream(rank, stream, run.log.read(rank, stream)))
        names = frozenset(name for name in run.streamed if rank in run.streamed[name])
        state.take(Streamed(rank, names))
    state.finish()
    return state
