"""Profiles of a block of training, by torch.profiler."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

from accelnb.errors import AccelnbError
from accelnb.training.agreement import together
from accelnb.training.processes import ProcessControl
from accelnb.training.settings import ProfileKwargs


def build(handler: ProfileKwargs) -> torch.profiler.profile:
    """Return the profiler that the settings describe.

    Raises
    ------
    AccelnbError
        An activity or an option of the schedule is unknown.

    Examples
    --------
    >>> import torch
    >>> from accelnb.training.profiling import build
    >>> from accelnb.utils import ProfileKwargs
    >>> with build(ProfileKwargs(activities=["cpu"])) as profiler:
    ...     _ = torch.ones(2) + 1
    >>> "aten::add" in [event.key for event in profiler.key_averages()]
    True
    """
    activities = None
    if handler.activities is not None:
        activities = [_activity(name) for name in handler.activities]
    schedule = None
    if handler.schedule_option is not None:
        try:
            schedule = torch.profiler.schedule(**handler.schedule_option)
        except TypeError as error:
            raise AccelnbError(f"schedule_option={handler.schedule_option}: {error}") from None
    return torch.profiler.profile(
        activities=activities,
        schedule=schedule,
        on_trace_ready=handler.on_trace_ready,
        record_shapes=handler.record_shapes,
        profile_memory=handler.profile_memory,
        with_stack=handler.with_stack,
        with_flops=handler.with_flops,
        with_modules=handler.with_modules,
    )


@contextmanager
def profiled(handler: ProfileKwargs, process: ProcessControl) -> Iterator[torch.profiler.profile]:
    """Profile a block, and write each rank's trace if the settings name a folder for it.

    With a schedule the trace is that of the last cycle, and the block calls ``profiler.step()``.
    If `on_trace_ready` writes the trace itself, it is not written again.

    Examples
    --------
    >>> import tempfile, os, torch
    >>> from accelnb import PartialState
    >>> from accelnb.training.profiling import profiled
    >>> from accelnb.utils import ProfileKwargs
    >>> folder = tempfile.mkdtemp()
    >>> with profiled(ProfileKwargs(["cpu"], output_trace_dir=folder), PartialState()):
    ...     _ = torch.ones(2) + 1
    >>> os.listdir(folder)
    ['profile_0.json']
    """
    with build(handler) as profiler:
        yield profiler
    if handler.output_trace_dir is None:
        return
    folder = Path(handler.output_trace_dir)

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _write_trace(profiler, folder / f"profile_{process.process_index}.json")

    together(process, write)  # then one rank can read them all


def _write_trace(profiler: torch.profiler.profile, path: str | os.PathLike[str]) -> None:
    if profiler.profiler is None:  # the schedule had not come to record
        warnings.warn(
            f"{path} was not written, as nothing was recorded: schedule_option wants more calls "
            "of profiler.step()",
            stacklevel=7,
        )
        return
    try:
        profiler.export_chrome_trace(os.fspath(path))
    except RuntimeError as error:
        if "already saved" not in str(error):  # by on_trace_ready
            raise


def _activity(name: str) -> ProfilerActivity:
    known = ProfilerActivity.__members__
    if name.upper() not in known:
        choices = ", ".join(kind.lower() for kind in known if kind.isupper())
        raise AccelnbError(f"activities: {name!r} is none of {choices}")
    return known[name.upper()]
