"""The values of `accelnb.stream` on their way out of a rank."""

from __future__ import annotations

import collections
import pickle
import time
from typing import Any

import torch

from accelnb.engine.serialization.pack import pickled
from accelnb.engine.wire.reports import SCALAR, Packet
from accelnb.training.streaming import KINDS

# What may wait for the notebook: the newest so many scalars, and bytes of other values.
_SCALARS_WAITING = 10_000
_BYTES_WAITING = 64 << 20
_LARGEST = 16 << 20
_SCALARS_IN_MESSAGE = 2_000
_BINS = 32
_MOST_STEPS = 1 << 62


class StreamedValues:
    """Keeps what the cell streams until the link thread takes it; `add` never waits."""

    def __init__(self) -> None:
        self.dropped = 0
        self._scalars: collections.deque[Packet] = collections.deque(maxlen=_SCALARS_WAITING)
        self._others: collections.deque[Packet] = collections.deque()
        self._bytes_waiting = 0
        self._next_step: collections.Counter[str] = collections.Counter()
        self._kinds: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._scalars) + len(self._others)

    def begin(self) -> None:
        """Count steps anew: another cell begins."""
        self._next_step.clear()
        self._kinds.clear()
        self.dropped = 0

    def add(self, name: str, value: Any, step: int | None, kind: str | None) -> None:
        __tracebackhide__ = True  # an error is to point at the cell's own line
        if not isinstance(name, str):
            raise ValueError(f"name={name!r}: must be text")
        if kind not in (None, *KINDS):
            raise ValueError(f"kind={kind}: choose one of {', '.join(KINDS)}")
        is_number = isinstance(value, int | float) or _has_one_number(value)
        kind = kind or (SCALAR if is_number else "tensor")
        if self._kinds.get(name, kind) != kind:
            raise ValueError(
                f"{name}: a {self._kinds[name]} before and a {kind} now; choose another name, or "
                "say kind= each time"
            )
        at = self._next_step[name] if step is None else _whole(step)
        if kind == SCALAR:
            self._add_scalar(Packet(name, SCALAR, at, time.time(), _number(name, value)))
        else:
            data = pickled(_snapshot(name, value, kind))
            self._add_other(Packet(name, kind, at, time.time(), data))
        self._kinds[name] = kind
        self._next_step[name] = at + 1

    def take(self) -> list[Packet]:
        """Return the next packets for a message, oldest first; none if there are none."""
        packets = []
        while self._scalars and len(packets) < _SCALARS_IN_MESSAGE:
            packets.append(self._scalars.popleft())
        if self._others:
            packets.append(self._others.popleft())
            self._bytes_waiting -= len(packets[-1].value)
        return packets

    def _add_scalar(self, packet: Packet) -> None:
        self.dropped += len(self._scalars) == _SCALARS_WAITING
        self._scalars.append(packet)

    def _add_other(self, packet: Packet) -> None:
        self._bytes_waiting += len(packet.value)
        self._others.append(packet)
        while self._bytes_waiting > _BYTES_WAITING:
            try:
                self._bytes_waiting -= len(self._others.popleft().value)
            except IndexError:  # the link thread took it meanwhile
                return
            self.dropped += 1


def packed(packets: list[Packet]) -> bytes:
    return pickle.dumps([tuple(packet) for packet in packets])


def _has_one_number(value: Any) -> bool:
    count = value.numel() if isinstance(value, torch.Tensor) else getattr(value, "size", None)
    return count == 1


def _whole(step: Any) -> int:
    __tracebackhide__ = True
    try:
        at = int(step)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ValueError(f"step={step}: must be a whole number") from None
    if not -_MOST_STEPS <= at < _MOST_STEPS:
        raise ValueError(f"step={step}: must fit into 64 bits")
    return at


def _number(name: str, value: Any) -> float:
    __tracebackhide__ = True
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: the number is too large for a float") from None
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name}: a {type(value).__name__} is not one number") from None


def _snapshot(name: str, value: Any, kind: str) -> Any:
    __tracebackhide__ = True
    if not isinstance(value, torch.Tensor):
        import numpy

        value = numpy.asarray(value)
        if value.dtype.kind not in "biufc":
            raise ValueError(f"{name}: only numbers, tensors and arrays can be streamed")
    elif value.layout != torch.strided:
        raise ValueError(f"{name}: a sparse tensor cannot be streamed; use to_dense()")
    if value.nbytes > _LARGEST and kind != "histogram":
        raise ValueError(
            f"{name}: {value.nbytes:,} bytes are too many to stream (most: {_LARGEST:,}); "
            "use --pull, or a histogram"
        )
    if isinstance(value, torch.Tensor):
        value = value.detach()
    if kind == "histogram":
        if "complex" in str(value.dtype):
            raise ValueError(f"{name}: complex numbers have no histogram; use abs()")
        return _histogram(torch.as_tensor(value))
    if kind == "image" and value.ndim not in (2, 3):
        raise ValueError(f"{name}: an image has 2 or 3 dimensions, this has {value.ndim}")
    # On its own: a view would take the whole storage along.
    return value.cpu().clone() if isinstance(value, torch.Tensor) else value.copy()


def _histogram(tensor: torch.Tensor) -> tuple[list[int], list[float]]:
    """Return the counts in 32 equal bins, and the 33 edges of these."""
    numbers = tensor.float().flatten()
    numbers = numbers[numbers.isfinite()].cpu()
    counts, edges = torch.histogram(numbers, _BINS) if len(numbers) else (torch.zeros(0),) * 2
    return counts.long().tolist(), edges.tolist()
