"""Processes that this one spawns import accelnb in the place of accelerate as well.

Forked ones do so anyway. A spawned one unpickles its task, say the workers of a loader, and that
imports the modules which the task's classes are of, before any line of the notebook runs in it.
"""

from __future__ import annotations

import functools
import sys
from multiprocessing import spawn
from typing import Any

_FIRST = "import sys; sys.path[:] = {path!r}; import accelnb.compat.accelerate"


class _Import:
    """Unpickled, it imports the stand-in: what a new process is prepared with comes first."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (_FIRST.format(path=sys.path),)


def carry_over() -> None:
    """Have it so from now on."""
    prepared = spawn.get_preparation_data

    @functools.wraps(prepared)
    def with_stand_in(name: str) -> dict[str, Any]:
        return prepared(name) | {"accelnb.compat.accelerate": _Import()}

    spawn.get_preparation_data = with_stand_in
