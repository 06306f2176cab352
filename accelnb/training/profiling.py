"""Profiles of a block of training, by torch.profiler."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from accelnb.training.collective_errors import together
from accelnb.training.configuration import ProfileKwargs
from accelnb.training.meeting import meeting
from accelnb.training.process_control import ProcessControl


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
    with handler.build() as profiler:
        yield profiler
    if handler.output_trace_dir is None:
        return
    folder = Path(handler.output_trace_dir)

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _write_trace(profiler, folder / f"profile_{process.process_index}.json")

    with meeting("profile", os.fspath(folder)):
        together(write)  # then one rank can read them all


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
