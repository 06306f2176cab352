"""What a launch is, described once.

Each field below is the only declaration of its option. The magic's arguments, its help, the
keywords of ``accelnb.launch`` and the messages about wrong values are all made from it.
"""

from __future__ import annotations

import dataclasses
import keyword
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from accelnb.devices import DEVICES
from accelnb.errors import AccelnbError

if TYPE_CHECKING:
    from accelnb.hardware import Hardware

T = TypeVar("T")


class ConfigError(AccelnbError):
    """An option has a value it cannot have. Nothing was started or changed."""


# ---- the values an option can take: text or a Python value in, a checked value out ----


def _at_least_one(value: Any) -> int:
    number = int(str(value))
    if number < 1:
        raise ValueError("must be a whole number of at least 1")
    return number


def _seconds(value: Any) -> float:
    number = float(value)
    if not (number > 0 and math.isfinite(number)):
        raise ValueError("must be a number of seconds above 0")
    return number


def _rank_set(value: Any) -> tuple[int, ...]:
    """Read ``0,2-3`` (or a sequence of numbers) as the ranks (0, 2, 3)."""
    if isinstance(value, int):
        return (value,)
    if not isinstance(value, str):
        return tuple(sorted({int(rank) for rank in value}))
    ranks: set[int] = set()
    for part in value.split(","):
        first, dash, last = part.partition("-")
        ranks.update(range(int(first), int(last if dash else first) + 1))
    if not ranks:
        raise ValueError("names no rank")
    return tuple(sorted(ranks))


def _name(value: Any) -> str:
    if not str(value).isidentifier() or keyword.iskeyword(value):
        raise ValueError("must be a Python variable name")
    return str(value)


def _names(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(_name(part.strip()) for part in parts)


def _option(
    default: Any,
    help: str,
    *,
    flags: str,
    parse: Callable[[Any], Any] | None = None,
    expects: str = "",
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare an option: `expects` is the text for a value that `parse` refuses."""
    metadata = {
        "help": help,
        "flags": tuple(flags.split()),
        "parse": parse,
        "expects": expects,
        "choices": choices,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class LaunchConfig:
    """Which ranks to start, and how cells behave on them.

    ``None`` in `procs` means "one for each accelerator, or two CPU ranks".

    Examples
    --------
    >>> from accelnb.config import LaunchConfig, from_mapping
    >>> from_mapping(LaunchConfig, {"procs": "4", "precision": "bf16"}).procs
    4
    """

    procs: int | None = _option(
        None,
        "number of ranks (default: one for each accelerator, else 2)",
        flags="-n --procs",
        parse=_at_least_one,
        expects="a whole number of at least 1",
    )
    device: str = _option(
        "auto",
        "where the ranks compute",
        flags="--device",
        choices=("auto", *DEVICES),
    )
    precision: str = _option(
        "no",
        "mixed precision for the cell's Accelerator",
        flags="--precision",
        choices=("no", "fp16", "bf16", "fp8"),
    )
    start: str = _option(
        "auto",
        "how a rank process starts: fork from a warm server (ms) or spawn a fresh Python (s)",
        flags="--start",
        choices=("auto", "fork", "spawn"),
    )
    timeout: float | None = _option(
        None,
        "stop the cell after this many seconds (default: never)",
        flags="--timeout",
        parse=_seconds,
        expects="a number of seconds above 0",
    )
    stall: float = _option(
        30.0,
        "after this many seconds without progress on any rank, say where each of them is",
        flags="--stall",
        parse=_seconds,
        expects="a number of seconds above 0",
    )
    logs: str = _option(
        "merged",
        "which output is shown: merged (equal lines of several ranks once), "
        "all (each rank's every line), rank0 (rank 0 only)",
        flags="--logs",
        choices=("merged", "all", "rank0"),
    )


@dataclass(frozen=True)
class CellOptions:
    """What one cell asks for, beside the ranks it runs on."""

    ranks: tuple[int, ...] | None = _option(
        None,
        "run on these ranks only, e.g. 0,2-3",
        flags="--ranks",
        parse=_rank_set,
        expects="ranks such as 0,2-3",
    )
    out: str | None = _option(
        None,
        "bind each rank's last value to this notebook name, as a sequence over ranks",
        flags="-o --out",
        parse=_name,
        expects="a Python variable name",
    )
    pull: tuple[str, ...] = _option(
        (),
        "bring these names back from the ranks, e.g. a,b; each becomes a sequence over ranks",
        flags="--pull",
        parse=_names,
        expects="variable names such as a,b",
    )
    detach: bool = _option(
        False,
        "return a Run at once; the cell goes on in the background (--out NAME binds the Run)",
        flags="--detach",
    )
    fresh: bool = _option(
        False,
        "start new ranks for this cell; the variables of the old ones are lost",
        flags="--fresh",
    )


# What must be equal for a cell to run on the ranks that are already there.
SHAPE = ("procs", "device", "start")


@dataclass(frozen=True)
class Option:
    """One option as its readers see it: the magic, the help, the messages."""

    name: str
    flags: tuple[str, ...]
    help: str
    default: Any
    choices: tuple[str, ...]
    parse: Callable[[Any], Any] | None
    expects: str

    @property
    def is_switch(self) -> bool:
        return isinstance(self.default, bool)

    def read(self, value: Any) -> Any:
        """Return `value` checked and in its own type; raise ConfigError otherwise."""
        if value is None and self.default is None:
            return None
        if self.is_switch:
            return bool(value)
        if self.choices:
            if value in self.choices:
                return value
            raise ConfigError(f"{self.name}={value}: choose one of {', '.join(self.choices)}")
        assert self.parse is not None
        try:
            return self.parse(value)
        except (ValueError, TypeError):
            raise ConfigError(f"{self.name}={value}: must be {self.expects}") from None


def options(*tables: type) -> tuple[Option, ...]:
    """Return the options that the given tables (dataclasses above) declare."""
    return tuple(
        Option(name=f.name, default=f.default, **f.metadata)
        for table in tables
        for f in dataclasses.fields(table)
    )


def from_mapping(table: type[T], values: Mapping[str, Any], base: T | None = None) -> T:
    """Make a `table` of the values it knows, checked, over `base` or the defaults."""
    read = {o.name: o.read(values[o.name]) for o in options(table) if o.name in values}
    return dataclasses.replace(base, **read) if base else table(**read)  # type: ignore[type-var]


def check_known(values: Iterable[str], *tables: type) -> None:
    """Raise ConfigError for a name that no table declares."""
    known = [option.name for option in options(*tables)]
    for name in values:
        if name not in known:
            raise ConfigError(f"{name}: no such option; options are {', '.join(known)}")


def resolve(config: LaunchConfig, hardware: Hardware) -> LaunchConfig:
    """Fill in what is automatic from `hardware` and refuse what it cannot do.

    Raises
    ------
    ConfigError
        A device this machine lacks, more ranks than devices, or a precision the device lacks.
    """
    device = config.device
    if device == "auto":
        device = hardware.best_device
    count = hardware.count(device)
    if not count:
        raise ConfigError(
            f"device={device}: not found on this machine; found {hardware.describe()}"
        )
    procs = config.procs or (count if device != "cpu" else 2)
    if device != "cpu" and procs > count:
        raise ConfigError(
            f"procs={procs}: this machine has {count} {device} device{'s' * (count > 1)}; "
            f"use --procs {count} at most, or --device cpu"
        )
    precisions = hardware.precisions(device)
    if config.precision not in precisions:
        raise ConfigError(
            f"precision={config.precision}: {device} cannot; choose one of {', '.join(precisions)}"
        )
    start = hardware.start_method(device) if config.start == "auto" else config.start
    return dataclasses.replace(config, device=device, procs=procs, start=start)
