"""Processes of this package that another of its processes starts, and that do not outlive it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

from accelnb.options.environment import folder_to_start_in

_PR_SET_PDEATHSIG = 1


def start_python(
    module: str,
    channel: int,
    *arguments: str,
    folder: str,
    path: Sequence[str] | None = None,
    inherited: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a Python process that calls `module`'s ``main`` with a descriptor that it inherits.

    It leads a session of its own: a terminal's Ctrl-C is not for it, and what it starts can be
    killed with it.

    Parameters
    ----------
    arguments
        Further arguments of the process.
    folder
        Where it starts, if it can.
    path
        Its ``sys.path``, by default this process's: it finds this package wherever that is.
    inherited
        Further descriptors.
    env, stdout, stderr
        As for `subprocess.Popen`.
    """
    code = (
        f"import sys; sys.path[:] = {list(sys.path if path is None else path)!r}; "
        f"import importlib; importlib.import_module({module!r}).main(int(sys.argv[1]))"
    )
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, str(channel), *arguments],
        stdin=subprocess.DEVNULL,
        pass_fds=(channel, *inherited),
        cwd=folder_to_start_in(folder),
        start_new_session=True,
        env=env,
        stdout=stdout,
        stderr=stderr,
    )


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when `parent` ends (prctl(2), PR_SET_PDEATHSIG)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def parent_fd() -> int | None:
    """Return a descriptor that is readable once the parent of this process has ended (Linux).

    End-of-file on a socket says so too, but late if a forked copy of the parent still holds the
    other end.
    """
    if not hasattr(os, "pidfd_open"):
        return None
    with contextlib.suppress(OSError):
        return os.pidfd_open(os.getppid())
    return None
