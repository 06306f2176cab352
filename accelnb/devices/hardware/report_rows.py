"""A machine in words: label and text, a row each."""

from __future__ import annotations

from collections.abc import Iterator

from accelnb.devices import DEVICES, Ability
from accelnb.devices.hardware.machine import Card, Machine
from accelnb.devices.hardware.probe import Hardware
from accelnb.devices.memory_size import rounded_size


def hardware_rows(machine: Machine) -> Iterator[tuple[str, str]]:
    """Yield what a person wants to know of the hardware.

    Examples
    --------
    >>> from accelnb.devices.hardware.machine import inspect_machine
    >>> from accelnb.devices.hardware.report_rows import hardware_rows
    >>> next(hardware_rows(inspect_machine()))[0]
    'processors'
    """
    yield "processors", _processors(machine)
    levels = (f"{name} {able.level}" for name, able in machine.processor.abilities.items())
    yield "", ", ".join(levels)
    yield "memory", _memory(machine)
    for card in machine.cards:
        yield f"{card.kind} {card.index}", _card(card)
    if not machine.cards:
        yield "accelerators", "none"
    if machine.driver:
        yield "driver", machine.driver
    yield "ranks on", machine.hardware.describe()
    if untried := _untried(machine.hardware):
        yield "not tried", f"accelnb's authors have run no ranks on {', '.join(untried)} so far"
    limits = machine.limits
    if limits.shm_total is not None:
        yield (
            "/dev/shm",
            f"{rounded_size(limits.shm_free)} free of {rounded_size(limits.shm_total)}",
        )
    if limits.open_files is not None:
        yield "open files", f"{limits.open_files:,} for each process"


def precisions(able: dict[str, Ability]) -> str:
    """Return e.g. ``fp16 fast, bf16 slow (emulated)``.

    Examples
    --------
    >>> from accelnb.devices import abilities
    >>> from accelnb.devices.hardware.report_rows import precisions
    >>> precisions(abilities("tpu"))
    'fp16 no (TPUs compute in bf16), bf16 fast, fp8 no'
    """
    return ", ".join(f"{name} {ability}" for name, ability in able.items())


def _untried(hardware: Hardware) -> list[str]:
    there = [row for row in DEVICES.values() if hardware.count(row.name)]
    never = [row.name for row in there if not row.run_on]
    return never + [
        f"several {row.name} devices at once"
        for row in there
        if row.ran_on_one and hardware.count(row.name) > 1
    ]


def _processors(machine: Machine) -> str:
    cpu = machine.processor
    if cpu.count == cpu.present:
        return f"{cpu.count} × {cpu.name}"
    why = f"the container's share is {cpu.share:g}" if cpu.share else "this process is bound"
    return f"{cpu.count} of {cpu.present} × {cpu.name} ({why})"


def _memory(machine: Machine) -> str:
    memory = machine.memory
    said = _free_of(memory.free, memory.total)
    if memory.total == memory.present:
        return said
    return f"{said} (the container's share of {rounded_size(memory.present)})"


def _card(card: Card) -> str:
    room = _free_of(card.free, card.memory) if card.memory else ""
    return ", ".join(
        part for part in (card.name, card.detail, room, precisions(card.abilities)) if part
    )


def _free_of(free: int | None, total: int) -> str:
    return f"{rounded_size(free)} free of {rounded_size(total)}"
