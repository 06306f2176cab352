"""What proc(5) tells of processes; off Linux, nothing."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(pid: int | str = "self") -> int | None:
    """Return a process's resident memory in bytes, None if the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return None


def process_state(pid: int) -> str | None:
    """Return Linux's letter for a process's state, None if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


def open_files() -> dict[int, str]:
    """Return what each open file of this process is called, by descriptor.

    Examples
    --------
    >>> import os
    >>> from accelnb.engine.process.procfs import open_files
    >>> reads, writes = os.pipe()
    >>> open_files().get(reads, "pipe:").partition("[")[0]
    'pipe:'
    >>> os.close(reads), os.close(writes)
    (None, None)
    """
    found = {}
    with contextlib.suppress(FileNotFoundError):  # not Linux
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # it was the listing's own, or closed meanwhile
                found[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
    return found
