"""What a setting is that ranks hold as the notebook has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def _itself(state: Any) -> Any:
    return state


@dataclass(frozen=True)
class Setting:
    """How a setting is read in the notebook, and how it is set on a rank.

    Attributes
    ----------
    name : str
        What a person calls it.
    module : str
        Of the library, which the notebook must have imported for there to be anything to read.
    read : callable
        Returns its state, given that module. Called before each cell: it has microseconds.
    hold : callable
        Sets a value on a rank, given the module there and the value. Where it has several parts,
        it is given all that differ.
    default : object
        The value of a fresh process, which is not sent.
    kept : callable
        Makes of a state what can be compared with later ones, if it changes in place.
    value : callable
        Makes of a state the value that travels.
    """

    name: str
    module: str
    read: Callable[[Any], Any]
    hold: Callable[[Any, Any], object]
    default: Any
    kept: Callable[[Any], Any] = _itself
    value: Callable[[Any], Any] = _itself
