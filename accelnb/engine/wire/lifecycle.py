"""What a process that starts ranks tells the notebook of their processes, on its channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from accelnb.engine.process.output_pipes import Output, Rest


@dataclass(frozen=True)
class Exit:
    """How a rank process ended: `code` as in `subprocess`, negative for a signal."""

    rank: int
    pid: int
    code: int
    rest: Mapping[str, Rest]  # of its stdout and stderr
    never_began: str | None = None  # why there was no process at all
    lost_with: str | None = None  # the machine that was lost, and the process with it


def started(rank: int, pid: int) -> dict[str, Any]:
    return {"event": "started", "rank": rank, "pid": pid}


def failed(rank: int, reason: str | None) -> dict[str, Any]:
    return {"event": "failed", "rank": rank, "reason": reason}


def exited(
    rank: int, pid: int, code: int, outputs: Iterable[Output], lost_with: str | None = None
) -> dict[str, Any]:
    """Tell an end, and what its outputs still hold."""
    rest = {output.name: Rest.of(output).to_json() for output in outputs}
    told = {"event": "exited", "rank": rank, "pid": pid, "code": code, "rest": rest}
    return told | {"lost_with": lost_with}


def read(told: dict[str, Any]) -> tuple[int, int] | Exit:
    """Read one of these: ``(rank, pid)`` of a start, or an `Exit`."""
    if told["event"] == "started":
        return told["rank"], told["pid"]
    if told["event"] == "failed":
        return Exit(told["rank"], 0, 1, {}, never_began=told["reason"])
    rest = {name: Rest.from_json(content) for name, content in told["rest"].items()}
    return Exit(told["rank"], told["pid"], told["code"], rest, lost_with=told["lost_with"])
