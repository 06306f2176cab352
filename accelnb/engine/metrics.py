"""What the ranks streamed with `accelnb.stream`, as the notebook reads it."""

from __future__ import annotations

import array
import collections
import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from accelnb.engine.wire.reports import SCALAR, Packet
from accelnb.errors import AccelnbError

_ROWS_SHOWN = 10
# Of a name that is not a scalar, the newest values of each rank are kept.
_VALUES_KEPT = 100


class Point(NamedTuple):
    """One streamed value; `time` in seconds since the epoch."""

    step: int
    value: Any
    time: float


class Series(Mapping[int, Sequence[Point]]):
    """All that was streamed under one name: ``series[rank]`` are that rank's points in order.

    Of scalars every point is kept, of other kinds the newest 100 a rank.

    Examples
    --------
    >>> from accelnb.engine.metrics import Series
    >>> from accelnb.engine.wire.reports import Packet
    >>> loss = Series("loss", "scalar")
    >>> loss.add(0, Packet("loss", "scalar", 0, 0.0, 0.5))
    >>> loss.add(1, Packet("loss", "scalar", 0, 0.0, 0.25))
    >>> loss[1][-1].value
    0.25
    >>> loss
    loss
    step       [0]      [1]
       0       0.5     0.25
    """

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.kind = kind
        self._points: dict[int, _Numbers | _Values] = {}

    def add(self, rank: int, packet: Packet) -> None:
        if rank not in self._points:
            self._points[rank] = _Numbers() if self.kind == SCALAR else _Values()
        self._points[rank].add(packet)

    def __getitem__(self, rank: int) -> Sequence[Point]:
        return self._points[rank]

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._points))

    def __len__(self) -> int:
        return len(self._points)

    def frame(self) -> Any:
        """Return a pandas DataFrame: a row for each step, a column for each rank.

        Raises
        ------
        AccelnbError
            These are no scalars.
        """
        if self.kind != SCALAR:
            raise AccelnbError(
                f"{self.name}: {self.kind}s make no table; read them as series[rank][-1].value"
            )
        import pandas  # pyright: ignore[reportMissingImports]

        columns = {
            rank: pandas.Series({p.step: p.value for p in self[rank]}, dtype="float64")
            for rank in self
        }
        return pandas.DataFrame(columns).rename_axis(index="step", columns="rank")

    def __repr__(self) -> str:
        if self.kind != SCALAR:
            counts = ", ".join(f"[{rank}] {len(self[rank])}" for rank in self)
            return f"{self.name}: {self.kind}s kept: {counts}"
        rows: dict[int, dict[int, float]] = collections.defaultdict(dict)
        for rank in self:
            for point in self[rank][-_ROWS_SHOWN:]:
                rows[point.step][rank] = point.value
        lines = ["step " + "".join(f"{f'[{rank}]':>9}" for rank in self)]
        for step in sorted(rows)[-_ROWS_SHOWN:]:
            cells = (f"{rows[step][r]:.6g}" if r in rows[step] else "" for r in self)
            lines.append(f"{step:>4} " + "".join(f"{cell:>9}" for cell in cells))
        return "\n".join([self.name, *lines])


class Streams(Mapping[str, Series]):
    """A run's streamed values by name."""

    def __init__(self) -> None:
        self._series: dict[str, Series] = {}
        self.dropped: dict[int, int] = {}  # by rank: what it dropped, for the notebook was slow

    def take(self, rank: int, packets: Sequence[Packet], dropped: int) -> frozenset[str]:
        """Add what a rank sent; return the names in it."""
        for packet in packets:
            series = self._series.get(packet.name)
            if series is None:
                series = self._series[packet.name] = Series(packet.name, packet.kind)
            if series.kind == packet.kind:
                series.add(rank, packet)
        if dropped:
            self.dropped[rank] = dropped
        return frozenset(packet.name for packet in packets)

    def __getitem__(self, name: str) -> Series:
        if name not in self._series:
            known = ", ".join(self._series) or "nothing yet"
            raise KeyError(f"{name} was not streamed; there is {known}")
        return self._series[name]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._series))

    def __len__(self) -> int:
        return len(self._series)

    def scalars(self) -> Streams:
        """Return only the scalars, which grow as these do."""
        return _Scalars(self)

    def __repr__(self) -> str:
        return "\n\n".join(repr(self[name]) for name in self) or "nothing was streamed"


class _Scalars(Streams):
    def __init__(self, whole: Streams) -> None:
        self._whole = whole
        self.dropped = whole.dropped

    def __getitem__(self, name: str) -> Series:
        return self._whole[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._whole if self._whole[name].kind == SCALAR)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Numbers(Sequence[Point]):
    """Points of one rank in 24 bytes each."""

    def __init__(self) -> None:
        self._steps, self._values, self._times = (array.array(code) for code in "qdd")

    def add(self, packet: Packet) -> None:
        self._steps.append(packet.step)
        self._times.append(packet.time)
        self._values.append(packet.value)  # last: a reader counts these

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        at = at + len(self) if at < 0 else at
        if not 0 <= at < len(self):
            raise IndexError(at)
        return Point(self._steps[at], self._values[at], self._times[at])


class _Values(Sequence[Point]):
    """The newest points of one rank, unpickled when they are looked at."""

    def __init__(self) -> None:
        self._packets: collections.deque[Packet] = collections.deque(maxlen=_VALUES_KEPT)

    def add(self, packet: Packet) -> None:
        self._packets.append(packet)

    def __len__(self) -> int:
        return len(self._packets)

    def __getitem__(self, at: Any) -> Any:
        packets = list(self._packets)
        chosen = packets[at]
        return _point(chosen) if isinstance(chosen, Packet) else [_point(p) for p in chosen]


def _point(packet: Packet) -> Point:
    # The rank's message was signed with this notebook's key.
    return Point(packet.step, pickle.loads(packet.value), packet.time)
