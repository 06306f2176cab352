"""The steps of a self-test, as they begin and end, and how they are shown."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from accelnb.devices import records
from accelnb.engine.failure import RunInterrupted
from accelnb.engine.group import WorkerGroup
from accelnb.engine.launchers.choice import finish_for, hardware_for
from accelnb.engine.launchers.local import fork_server
from accelnb.engine.run import Run
from accelnb.engine.serialization.pack import call, dumps
from accelnb.errors import AccelnbError
from accelnb.options.config import LaunchConfig, resolve, settings_for_ranks, sharing

if TYPE_CHECKING:
    from rich.console import Console

    from accelnb.devices.hardware import Hardware

_MARKS = {"ok": "[green]✓[/green]", "failed": "[red]✗[/red]"}
_LIMIT = 60.0  # s for one step
_LOOK_EVERY = 0.1  # s between looks at whether it was cancelled

# Each check of rank_checks.py, by its name there: what it is called, and what to do if it fails.
_NOT_REACHED = "ranks do not reach each other: see accelnb env"
_CHECKS = {
    "process_group": ("process group", _NOT_REACHED),
    "all_reduce": ("all_reduce", _NOT_REACHED),
    "broadcast_and_gather": ("broadcast, gather", _NOT_REACHED),
    "bandwidth": ("bandwidth", "try fewer ranks; there may be too little memory"),
    "mesh": ("mesh", "choose other dimensions, or none"),
    "sharding": ("sharding", "use strategy ddp and no mesh; what fully_shard needs fails here"),
    "training": ("training", "try precision no and strategy ddp"),
}


@dataclass(frozen=True)
class Step:
    """One step of a self-test, when it begins and again when it ends.

    Attributes
    ----------
    name : str
        Such as ``all_reduce``.
    status : str
        ``running``, ``ok`` or ``failed``. Nothing comes after a failed step.
    detail : str
        One line: what was found, or what failed on which rank and what to do.
    """

    name: str
    status: Literal["running", "ok", "failed"]
    detail: str = ""


def self_test(config: LaunchConfig, cancelled: threading.Event | None = None) -> Iterator[Step]:
    """Test a configuration on new ranks, which end with the test; yield its steps as they go.

    The ranks of the notebook, if there are any, are left alone. Each step is bounded in time.

    Parameters
    ----------
    cancelled
        Set it, from any thread, to end the test: the step under way fails within 3 s. Closing
        the iterator between two steps ends it too.

    Examples
    --------
    >>> from accelnb.options.config import LaunchConfig
    >>> from accelnb.cli.selftest import self_test
    >>> steps = list(self_test(LaunchConfig(device="cpu", procs=2)))
    >>> [step.name for step in steps if step.status == "ok"][-4:]
    ['bandwidth', 'sharding', 'training', 'end']
    """
    cancelled = cancelled or threading.Event()
    yield Step("start", "running")
    try:
        hardware = hardware_for(config)
        config = resolve(config, hardware)
        if config.cluster == "local" and config.start == "fork":
            fork_server().wait_ready()  # in a notebook it has long been
        begun = time.perf_counter()
        group = WorkerGroup(dataclasses.replace(config, timeout=None))
    except AccelnbError as error:
        yield Step("start", "failed", _one_line(error))
        return
    took = time.perf_counter() - begun
    ranks = f"{config.world_size} rank{'s' * (config.world_size != 1)} on {config.device}"
    how = f"by {config.start}" if config.cluster == "local" else f"of {config.cluster}"
    said = f"{ranks} {how} in {took * 1e3:.0f} ms"
    try:
        shared = sharing(config, hardware)
        yield Step("start", "ok", f"{said}; {shared}" if shared else said)
        for check, (name, advice) in _CHECKS.items():
            if not _applies(check, config, hardware):
                continue
            yield Step(name, "running")
            try:
                detail = _run(group, check, config, cancelled)
            except (AccelnbError, RunInterrupted) as error:
                why = "cancelled" if cancelled.is_set() else f"{_one_line(error)}; {advice}"
                yield Step(name, "failed", why)
                return
            yield Step(name, "ok", detail)
        yield Step("end", "running")
        begun = time.perf_counter()
        group.shutdown()
        took = time.perf_counter() - begun
        yield Step("end", "ok", f"all ranks ended in {took * 1e3:.0f} ms")
    finally:
        group.shutdown(grace=0)


def _applies(check: str, config: LaunchConfig, hardware: Hardware) -> bool:
    if check == "mesh":
        return bool(config.mesh)
    if check == "sharding" and config.strategy == "ddp" and not config.mesh:
        # Where it may not work, and is not asked for, it does not matter.
        return not records(config.device) and not sharing(config, hardware)
    return True


def show(steps: Iterator[Step], console: Console) -> Step:
    """Print each step when it is over, on a terminal also the one under way; return the last.

    A test that passed gets a verdict; what to do about one that failed is the caller's to say.
    """
    from rich.markup import escape

    step = Step("start", "running")
    with console.status("") as under_way:
        for step in steps:
            if step.status == "running":
                under_way.update(step.name)
            else:
                said = escape(step.detail)
                line = f"{_MARKS[step.status]} {step.name:<18} {said}"
                console.print(line, highlight=False, soft_wrap=True)
    if step.status == "ok":
        console.print("This configuration works.", style="bold", highlight=False)
    return step


def _run(group: WorkerGroup, check: str, config: LaunchConfig, cancelled: threading.Event) -> str:
    """Run a check on all ranks and return what rank 0 says of it."""
    packed = dumps(call(_Check(check)), finish=finish_for(config))
    content = {"settings": settings_for_ranks(config), "result": True} | packed.content
    request = (content, packed.buffers)
    requests = dict.fromkeys(group.ranks, request)
    run = group.run("call_request", requests, timeout=_LIMIT, lent=[packed])
    run.abandon()  # what ranks print is of no interest
    _await(run, cancelled)
    return run.results()[0]


@dataclass(frozen=True)
class _Check:
    """Calls a check by its name, so that the notebook need not import torch to send it."""

    name: str

    def __call__(self) -> str:
        from accelnb.cli.selftest import rank_checks

        return getattr(rank_checks, self.name)()


def _await(run: Run, cancelled: threading.Event) -> None:
    try:
        while not run.wait(_LOOK_EVERY):
            if cancelled.is_set() and not run.stopping:
                run.interrupt()
    except KeyboardInterrupt:
        run.interrupt()
        run.wait(_LIMIT)
        raise
    run.raise_if_failed()


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if "will be replaced" not in line)
