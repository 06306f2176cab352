"""The cells that the notebook has run: their texts, and the names in them."""

from __future__ import annotations

import contextlib
import linecache
from collections.abc import Iterable
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from accelnb.jupyter.cell_names import FUTURE_FLAGS, CellNames, analyse


class Sources:
    """Keeps which cells each rank was sent, whose lines its tracebacks then show."""

    def __init__(self) -> None:
        self._sent: dict[int, set[tuple[str, int]]] = {}

    def forget(self, ranks: Iterable[int]) -> None:
        for rank in ranks:
            self._sent.pop(rank, None)

    def for_rank(self, rank: int, shell: InteractiveShell) -> dict[str, tuple[int, str]]:
        """Return the cells that `rank` was not sent: file name -> (cell number, text)."""
        sent = self._sent.setdefault(rank, set())
        new = [cell for cell in cells_so_far(shell).items() if cell not in sent]
        sent.update(new)
        return {
            name: (number, "".join(linecache.cache[name][2]))  # type: ignore[index]
            for name, number in new
            if name in linecache.cache and len(linecache.cache[name]) == 4
        }


def cells_so_far(shell: InteractiveShell) -> dict[str, int]:
    """Return the file name and number of every cell that the notebook has run."""
    return getattr(shell.compile, "_filename_map", {})


def texts_so_far(shell: InteractiveShell) -> list[str]:
    """Return the text of the cells that a notebook has run."""
    history: Any = shell.history_manager
    return list(history.input_hist_raw[1:]) if history is not None else []


def future_of(shell: InteractiveShell) -> int:
    """Return which of `FUTURE_FLAGS` the notebook's cells have turned on."""
    return shell.compile.flags & FUTURE_FLAGS


def names_in(text: str, shell: InteractiveShell | None) -> CellNames:
    """Return the names of a cell that was run, or of a script; none if it is not Python."""
    with contextlib.suppress(SyntaxError, ValueError):
        if shell is None:
            return analyse(text)
        return analyse(shell.transform_cell(text), future_of(shell))
    return CellNames()
