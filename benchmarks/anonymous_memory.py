"""The peak of what a process holds in memory, but for pages of files.

It is the kernel's anonymous memory of the process (``RssAnon``), looked at every millisecond, above
what the process had just before: pages of files that are mapped to be read are not in it, for the
kernel drops them at will.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 2**20


def anonymous() -> int:
    """Return the bytes of this process that are no pages of files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel does not tell anonymous memory apart")


@contextmanager
def peak() -> Iterator[dict[str, float]]:
    """Yield what will hold the peak above the memory at the start in MiB, and the seconds."""
    found: dict[str, float] = {}
    ended, highest = threading.Event(), [0]

    def look() -> None:
        while not ended.wait(0.001):
            highest[0] = max(highest[0], anonymous())

    before, began = anonymous(), time.perf_counter()
    thread = threading.Thread(target=look)
    thread.start()
    yield found
    ended.set()
    thread.join()
    found["seconds"] = time.perf_counter() - began
    found["peak"] = (max(highest[0], anonymous()) - before) / MIB
