"""What this process has open, by descriptor."""

from __future__ import annotations

import contextlib
import os


def open_files() -> dict[int, str]:
    """Return what proc(5) calls each open file; nothing where it is not told, off Linux.

    Examples
    --------
    >>> import os
    >>> from accelnb.engine.launchers.open_files import open_files
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
