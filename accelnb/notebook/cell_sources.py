"""The text of the notebook's cells, so that a rank's traceback can show their lines."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Mapping


class Sources:
    """Keeps which cells each rank of a group was sent."""

    def __init__(self) -> None:
        self._sent: dict[int, set[tuple[str, int]]] = {}

    def forget(self, ranks: Iterable[int]) -> None:
        for rank in ranks:
            self._sent.pop(rank, None)

    def for_rank(self, rank: int, cells: Mapping[str, int]) -> dict[str, tuple[int, str]]:
        """Return the cells that `rank` was not sent: file name -> (cell number, text)."""
        sent = self._sent.setdefault(rank, set())
        new = [(name, number) for name, number in cells.items() if (name, number) not in sent]
        sent.update(new)
        return {
            name: (number, "".join(linecache.cache[name][2]))  # type: ignore[index]
            for name, number in new
            if name in linecache.cache and len(linecache.cache[name]) == 4
        }
