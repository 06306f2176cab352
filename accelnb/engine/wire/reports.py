"""What a rank reports of a cell beside its output: streamed values and progress bars."""

from __future__ import annotations

from typing import Any, NamedTuple

SCALAR = "scalar"


class Packet(NamedTuple):
    """A streamed value on its way: `value` is a number, or a pickle of what is not."""

    name: str
    kind: str
    step: int
    time: float
    value: Any


class Bar(NamedTuple):
    """The state of one progress bar of a rank.

    Attributes
    ----------
    key : str
        Stands for the bar on its rank.
    label : str
        What the bar says it is for; empty if it does not.
    done, total : float
        How far it is and where it ends, in units; `total` is None if that is not known.
    unit : str
        Such as ``it`` or ``B``.
    rate : float or None
        Units per second.
    text : str
        The whole bar as a terminal shows it.
    closed : bool
        Whether this is its last state.
    """

    key: str
    label: str
    done: float
    total: float | None
    unit: str
    rate: float | None
    text: str
    closed: bool

    def same_progress(self, other: Bar) -> bool:
        return (self.label, self.done, self.total) == (other.label, other.done, other.total)
