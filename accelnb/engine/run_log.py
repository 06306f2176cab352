"""A run's whole output on disk, whatever of it is shown."""

from __future__ import annotations

import collections
import itertools
import shutil
from pathlib import Path
from typing import BinaryIO

_RUNS_KEPT = 20


class RunLog:
    """What each rank of one run wrote, a file for each rank and stream.

    Parameters
    ----------
    folder
        Where the files go; made when the first rank writes something.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problem: str | None = None  # why it is not whole
        self._files: dict[tuple[int, str], BinaryIO] = {}

    def path(self, rank: int, stream: str) -> Path:
        return self.folder / f"rank-{rank}.{stream}"

    def write(self, rank: int, stream: str, text: str) -> None:
        if self.problem:
            return
        try:
            file = self._files.get((rank, stream)) or self._open(rank, stream)
            file.write(text.encode("utf-8", "replace"))
        except OSError as error:
            self.problem = f"the log in {self.folder} ends early: {error.strerror}"

    def read(self, rank: int, stream: str) -> str:
        """Return what `rank` has written so far."""
        path = self.path(rank, stream)
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _open(self, rank: int, stream: str) -> BinaryIO:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Unbuffered: each piece is large already, and a reader sees it at once.
        file = self.path(rank, stream).open("ab", buffering=0)
        self._files[rank, stream] = file
        return file


_kept: collections.deque[RunLog] = collections.deque()
_numbers = itertools.count(1)


def new_log(folder: Path) -> RunLog:
    """Return the log of a new run, in `folder`, and delete that of the oldest run.

    `folder` has to be private, and to end with the notebook.
    """
    _kept.append(RunLog(folder / f"run-{next(_numbers)}"))
    while len(_kept) > _RUNS_KEPT:
        shutil.rmtree(_kept.popleft().folder, ignore_errors=True)
    return _kept[-1]
