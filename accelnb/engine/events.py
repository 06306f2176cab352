"""What a run tells its view while it is under way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from accelnb.engine.progress_bars import Progress
from accelnb.engine.wire.reports import Bar


@dataclass(frozen=True)
class Stream:
    """Text that a rank wrote; `name` is ``stdout`` or ``stderr``."""

    rank: int
    name: str
    text: str


@dataclass(frozen=True)
class Skipped:
    """Lines that are in the run's log only, for the view was too far behind."""

    rank: int
    name: str
    lines: int


@dataclass(frozen=True)
class Display:
    """A Jupyter display message of a rank: display_data, execute_result, clear_output ..."""

    rank: int
    kind: str
    content: dict[str, Any]


@dataclass(frozen=True)
class Streamed:
    """Values of `accelnb.stream` arrived; they are in the run's `streamed`."""

    rank: int
    names: frozenset[str]


@dataclass(frozen=True)
class Stalled:
    """No rank has made progress for a while; `report` says where each is.

    `waits` says it of each rank in a few words, such as ``waiting in all_reduce``.
    """

    report: str
    waits: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Usage:
    """Memory that a rank's process holds, in bytes, told about once a second."""

    rank: int
    memory: int | None
    device_memory: int | None


Event = Stream | Skipped | Display | Streamed | Stalled | Progress | Usage


def event_of(rank: int, kind: str, content: dict[str, Any]) -> Event:
    """Return what a rank tells by a message of this kind; what is none of ours is Jupyter's."""
    if kind == "progress":
        return Progress(rank, tuple(Bar(**bar) for bar in content["bars"]))
    return Display(rank, kind, content)
