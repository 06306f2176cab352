"""A machine described for a person: names, memory, abilities, and what is wrong with it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelnb.devices import DEVICES, Ability, abilities
from accelnb.devices.hardware import amd, nvidia, tpu, usable_resources
from accelnb.devices.hardware.diagnostics import notes
from accelnb.devices.hardware.probe import Hardware, probe
from accelnb.devices.hardware.torch_build import TorchBuild, torch_build


@dataclass(frozen=True)
class Processor:
    """The processors.

    Attributes
    ----------
    count : int
        How many this process can keep busy.
    present : int
        How many the machine has.
    share : float or None
        How many processors' time the container allows, if it limits that.
    """

    name: str
    count: int
    present: int
    share: float | None
    abilities: dict[str, Ability]


@dataclass(frozen=True)
class Card:
    """An accelerator that ranks could use.

    Attributes
    ----------
    kind : str
        A name of `accelnb.devices.DEVICES`.
    index : int
        As torch numbers it.
    detail : str
        Compute capability or architecture.
    memory, free : int or None
        Bytes.
    """

    kind: str
    index: int
    name: str
    detail: str
    memory: int | None
    free: int | None
    abilities: dict[str, Ability]


@dataclass(frozen=True)
class Machine:
    """What `inspect_machine` found.

    Attributes
    ----------
    hardware : Hardware
        What ranks can use, as `probe` counts it.
    cards : tuple of Card
        Also those that cannot be used; `notes` says why.
    driver : str or None
        Of the GPUs.
    notes : tuple of str
        What is wrong, each with what to do.
    """

    hardware: Hardware
    processor: Processor
    memory: usable_resources.Memory
    cards: tuple[Card, ...]
    driver: str | None
    limits: usable_resources.Limits
    torch: TorchBuild | None
    notes: tuple[str, ...]


def inspect_machine(
    root: Path = Path("/"),
    environ: Mapping[str, str] = os.environ,
    nvml: Any = None,
    build: TorchBuild | None = None,
) -> Machine:
    """Describe this machine; takes some milliseconds, with NVIDIA GPUs up to a second.

    Parameters
    ----------
    root, environ
        The file system and environment to read.
    nvml
        What answers for the NVIDIA driver: by default the module ``pynvml``.
    build
        The torch that ranks import; by default the one that is installed.

    Examples
    --------
    >>> from accelnb.devices.hardware.machine import inspect_machine
    >>> machine = inspect_machine()
    >>> machine.processor.count >= 1 and machine.memory.total > 0
    True
    """
    build = build or torch_build()
    hardware = probe(root, environ, build)
    answer = nvidia.ask(nvml)
    room = usable_resources.limits(root)
    cards = tuple(_cards(root, environ, build, answer, hardware))
    driver = f"{answer.driver}, for CUDA up to {answer.cuda}" if answer.driver else None
    return Machine(
        hardware,
        _processor(root),
        usable_resources.memory(root),
        cards,
        driver,
        room,
        build,
        (*notes(root, environ, build, answer, hardware, room), *_uneven(cards)),
    )


def _processor(root: Path) -> Processor:
    first, _, _ = usable_resources.read(root / "proc/cpuinfo").partition("\n\n")
    lines = (line.partition(":") for line in first.splitlines())
    fields = {name.strip(): value.strip() for name, _, value in lines}
    flags = fields.get("flags", fields.get("Features", "")).split()
    name = fields.get("model name") or platform.processor() or platform.machine()
    return Processor(
        name,
        usable_resources.usable_cpus(str(root)),
        usable_resources.present_cpus(root),
        usable_resources.cpu_share(root),
        abilities("cpu", features=flags),
    )


def _cards(
    root: Path,
    environ: Mapping[str, str],
    build: TorchBuild | None,
    answer: nvidia.Nvidia,
    hardware: Hardware,
) -> Iterator[Card]:
    if build is None or not build.hip:
        shown = nvidia.visible_gpus(answer.gpus, environ.get("CUDA_VISIBLE_DEVICES"))
        for index, gpu in enumerate(shown):
            detail = f"compute capability {gpu.version[0]}.{gpu.version[1]}"
            able = abilities("cuda", gpu.version)
            yield Card("cuda", index, gpu.name, detail, gpu.memory, gpu.free, able)
    if build is None or not build.cuda:
        for index, gpu in enumerate(amd.gpus(root, environ)):
            able = abilities("rocm", features=[gpu.architecture])
            yield Card("rocm", index, gpu.name, gpu.architecture, gpu.memory, gpu.free, able)
    chips = tpu.count(root, environ, usable_resources.entries(root / "dev"))
    for kind, count, name in (
        ("tpu", chips, tpu.name(root, environ)),
        ("xpu", hardware.count("xpu"), DEVICES["xpu"].title),
        ("mps", hardware.count("mps"), f"Apple {platform.machine()} GPU"),
        *((row.name, hardware.count(row.name), row.title) for row in DEVICES.values() if row.files),
    ):
        for index in range(count):
            yield Card(kind, index, name, "", None, None, abilities(kind))


# ---- what only some of the cards do well, though ranks compute on all of them alike ----

_LEVELS = ("fast", "slow", "no")  # the best first
_SAID = {"fast": "fast", "slow": "slow", "no": "not possible"}


def _uneven(cards: Sequence[Card]) -> Iterator[str]:
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
