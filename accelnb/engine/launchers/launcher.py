"""What a group of ranks asks of the launcher that made their processes, wherever they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from accelnb.engine.launchers.memory_meter import Held
from accelnb.engine.wire.lifecycle import Exit
from accelnb.engine.wire.messages import Link


class LaunchedRanks(Protocol):
    """The rank processes of one group. Closing it ends those that still live."""

    @property
    def folder(self) -> Path:
        """Where the logs of the group's runs go; it ends with the notebook's process."""
        ...

    def fileno(self) -> int:
        """Return the descriptor that is readable when `receive` has news."""
        ...

    def receive(self) -> tuple[int, int] | Exit:
        """Return ``(rank, pid)`` of a start or an `Exit`; raise EOFError if all ranks are lost."""
        ...

    def listen(self, key: bytes) -> Link:
        """Return the notebook's end of the wire, where the ranks can reach it."""
        ...

    def open_store(self) -> tuple[str, int]:
        """Open a port for the store that rank 0, started next, will serve; return its address."""
        ...

    def context(self) -> dict[str, Any]:
        """Return what the ranks are to follow of the notebook's folder, path and environment."""
        ...

    def describe(self, rank: int) -> dict[str, Any]:
        """Return what `accelnb.worker.main` has to know of the place that a rank runs at."""
        ...

    def start(self, spec: dict[str, Any], method: str) -> None:
        """Ask for the rank that `spec` describes. Raises OSError if nobody can start it."""
        ...

    def kill(self, rank: int) -> None: ...

    def held(self, pids: Sequence[int]) -> dict[int, Held]:
        """Return what each of these processes holds, as far as it is known."""
        ...

    def state(self, pid: int) -> str | None:
        """Return Linux's letter for a process's state, None if there is no such process."""
        ...

    def alive(self) -> bool:
        """Whether ranks can be started."""
        ...

    def last_words(self) -> str:
        """Say why `alive` is not so."""
        ...

    def close(self) -> None: ...
