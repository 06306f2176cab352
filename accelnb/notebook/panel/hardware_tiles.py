"""The hardware found, here or on the cluster that is chosen, as the top of the panel."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

from accelnb.devices import Ability
from accelnb.devices.hardware import Hardware
from accelnb.devices.hardware.machine import Card, Machine
from accelnb.devices.memory_size import rounded_size as size
from accelnb.jupyter import front_ends


def as_html(machine: Machine) -> str:
    """Return a tile for the processors, the memory and each kind of card, and what is wrong."""
    cpu, memory = machine.processor, machine.memory
    count = f"{cpu.count}" if cpu.count == cpu.present else f"{cpu.count} of {cpu.present}"
    tiles = [
        _tile(f"{count} CPU{'s' * (cpu.count != 1)}", cpu.name, _abilities(cpu.abilities)),
        _tile(size(memory.total), "memory", html.escape(f"{size(memory.free)} free")),
        *(_cards(cards) for cards in _alike(machine.cards)),
    ]
    if not machine.cards:
        tiles.append(_tile("No accelerator", "GPU or TPU", "ranks compute on the CPUs"))
    notes = "".join(
        f'<div class="accelnb-warn">{html.escape(note)}</div>' for note in machine.notes
    )
    return f'{_head(machine)}<div class="accelnb-tiles">{"".join(tiles)}</div>{notes}'


def cluster_as_html(machine: Machine, cluster: str, hardware: Hardware | None) -> str:
    """Return a tile for each kind of device that a cluster's nodes have, or that says why not.

    Parameters
    ----------
    hardware
        None if the cluster was not reached yet.
    """
    if hardware is None:
        later = "a cell there, or Test, finds out what it has"
        tiles = _tile("Not reached yet", f"the cluster {cluster}", later)
    else:
        tiles = "".join(
            _tile(f"{count} {kind}", f"the cluster {cluster}", "on a node, at most")
            for kind, count in hardware.devices.items()
            if count
        )
    return f'{_head(machine)}<div class="accelnb-tiles">{tiles}</div>'


def _head(machine: Machine) -> str:
    torch = machine.torch.describe() if machine.torch else "not installed"
    about = f"torch {torch} · {front_ends.host()}"
    return f'<div class="accelnb-head"><b>accelnb</b><span>{html.escape(about)}</span></div>'


def _tile(what: str, name: str, detail: str) -> str:
    return (
        f'<div class="accelnb-tile"><b>{html.escape(what)}</b>'
        f'<span title="{html.escape(name)}">{html.escape(name)}</span><small>{detail}</small></div>'
    )


def _alike(cards: Iterable[Card]) -> list[list[Card]]:
    """Put equal cards together."""
    groups: dict[tuple[str, str, int | None], list[Card]] = {}
    for card in cards:
        groups.setdefault((card.kind, card.name, card.memory), []).append(card)
    return list(groups.values())


def _cards(cards: list[Card]) -> str:
    first = cards[0]
    free = [card.free for card in cards if card.free is not None]
    room = f"{size(min(free))} free of {size(first.memory)} · " if free and first.memory else ""
    return _tile(
        f"{len(cards)} {first.kind}", first.name, html.escape(room) + _abilities(first.abilities)
    )


def _abilities(able: Mapping[str, Ability]) -> str:
    """Name the precisions that work; what is slow is said so."""
    said = [
        f'<span title="{html.escape(str(ability))}">{name}{" slow" * (ability.level == "slow")}'
        "</span>"
        for name, ability in able.items()
        if ability.level != "no"
    ]
    return ", ".join(said)
