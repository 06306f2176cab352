"""What only some of a machine's cards do well, though ranks compute on all of them alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from accelnb.devices import DEVICES

if TYPE_CHECKING:
    from accelnb.hardware.machine import Card

_LEVELS = ("fast", "slow", "no")  # the best first
_SAID = {"fast": "fast", "slow": "slow", "no": "not possible"}


def uneven(cards: Sequence[Card]) -> Iterator[str]:
    """Yield a line for each precision that cards of one kind are not equally good at."""
    for kind in dict.fromkeys(card.kind for card in cards):
        alike = [card for card in cards if card.kind == kind]
        for precision in alike[0].abilities:
            if line := _line(alike, precision):
                yield line


def _line(cards: Sequence[Card], precision: str) -> str | None:
    by_level = {
        level: [card for card in cards if card.abilities[precision].level == level]
        for level in _LEVELS
    }
    groups = {level: found for level, found in by_level.items() if found}
    if len(groups) < 2:
        return None
    said = ", ".join(f"{_SAID[level]} on {_names(found)}" for level, found in groups.items())
    then = "not possible" if "no" in groups else "as slow as on the slowest"
    variable = DEVICES[cards[0].kind].variable
    return f"{precision} is {said}; on all together it is {then}: choose among them by {variable}"


def _names(cards: Sequence[Card]) -> str:
    """Return e.g. ``cuda 0 and 2 (Tesla T4)``."""
    numbers = " and ".join(str(card.index) for card in cards)
    models = ", ".join(dict.fromkeys(card.name for card in cards))
    return f"{cards[0].kind} {numbers} ({models})"
