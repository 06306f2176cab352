"""What a launch is, described once.

Each field below is the only declaration of its option. The magic's arguments, its help, the
keywords of ``accelnb.launch``, the panel's controls, the keys of accelnb.yaml and the messages
about wrong values are all made from it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from accelnb.devices import DEVICES
from accelnb.errors import AccelnbError
from accelnb.options.device_name import refuse_device
from accelnb.options.environment import BY_OPTION
from accelnb.options.mesh import (
    MESH_DIMENSIONS,
    Dimensions,
    check_order,
    filled,
    places,
    read_mesh,
    why_not_strategy,
    write_mesh,
)
from accelnb.options.option import ConfigError as ConfigError
from accelnb.options.option import Option as Option
from accelnb.options.option import (
    declare,
    read_cluster,
    read_count,
    read_name,
    read_names,
    read_ranks,
    read_seconds,
)
from accelnb.options.option import options as options

if TYPE_CHECKING:
    from accelnb.devices.hardware import Hardware

T = TypeVar("T")


@dataclass(frozen=True)
class LaunchConfig:
    """Which ranks to start, and how cells behave on them.

    ``None`` in `procs` means "one for each accelerator, or two CPU ranks".

    Examples
    --------
    >>> from accelnb.options.config import LaunchConfig, from_mapping
    >>> from_mapping(LaunchConfig, {"procs": "4", "precision": "bf16"}).procs
    4
    """

    procs: int | None = declare(
        None,
        "number of ranks, on each node (default: one for each accelerator, else 2)",
        flags="-n --procs",
        parse=read_count,
        expects="a whole number of at least 1",
    )
    device: str = declare(
        "auto",
        "where the ranks compute",
        flags="--device",
        choices=("auto", *DEVICES),
        parse=refuse_device,
    )
    precision: str = declare(
        "no",
        "mixed precision for the cell's Accelerator",
        flags="--precision",
        choices=("no", "fp16", "bf16", "fp8"),
    )
    outputs: str = declare(
        "fp32",
        "what models of the cell's Accelerator return in mixed precision: fp32 converts it, as in "
        "Accelerate; compute leaves it as it was computed, which saves time and memory",
        flags="--outputs",
        choices=("fp32", "compute"),
    )
    strategy: str = declare(
        "ddp",
        "how the cell's Accelerator trains one model on all ranks: ddp has a copy on each and "
        "averages gradients, fsdp divides weights, gradients and optimizer states over them, hsdp "
        "does so within each group of dp_shard ranks, none leaves models as they are, for those "
        "that you shard yourself",
        flags="--strategy",
        choices=("ddp", "fsdp", "hsdp", "none"),
        absent={
            "tp": "say --mesh tp=2, or tp=-1 for all ranks",
            "cp": "say --mesh cp=2, or cp=-1 for all ranks",
            "deepspeed": "not in this version: choose fsdp, or none and call deepspeed.initialize",
        },
    )
    mesh: tuple[tuple[str, int], ...] = declare(
        (),
        "arrange all ranks in a torch DeviceMesh, which the cell has as mesh, and train models so: "
        "e.g. dp_shard=2,tp=2; one size may be -1, for what is left (default: none)",
        flags="--mesh",
        parse=read_mesh,
        expects="dimensions such as dp_shard=2,tp=2, each once, of " + ", ".join(MESH_DIMENSIONS),
        write=write_mesh,
    )
    accumulation: int = declare(
        1,
        "batches of each rank for one optimizer step, unless the cell's Accelerator says",
        flags="--accumulation",
        parse=read_count,
        expects="a whole number of at least 1",
    )
    cluster: str = declare(
        "local",
        "where the ranks run: local, on this machine; ray, on the Ray cluster that this machine "
        "is part of; ray://HOST:PORT, on one elsewhere",
        flags="--cluster",
        choices=("local", "ray"),
        parse=read_cluster,
        expects="local, ray, or the address of a Ray cluster such as ray://head-node:10001",
    )
    nodes: int = declare(
        1,
        "machines of the cluster to run on, with --procs ranks on each",
        flags="--nodes",
        parse=read_count,
        expects="a whole number of at least 1",
    )
    start: str = declare(
        "auto",
        "how a rank process starts: fork from a warm server (ms), spawn a fresh Python (s), "
        "or xla, by torch_xla's own launcher",
        flags="--start",
        choices=("auto", "fork", "spawn", "xla"),
    )
    timeout: float | None = declare(
        None,
        "stop the cell after this many seconds (default: never)",
        flags="--timeout",
        parse=read_seconds,
        expects="a number of seconds above 0",
        write="{:g}".format,
    )
    stall: float = declare(
        30.0,
        "after this many seconds without progress on any rank, say where each of them is",
        flags="--stall",
        parse=read_seconds,
        expects="a number of seconds above 0",
        write="{:g}".format,
    )
    logs: str = declare(
        "merged",
        "which output is shown: merged (equal lines of several ranks once), "
        "all (each rank's every line), rank0 (rank 0 only)",
        flags="--logs",
        choices=("merged", "all", "rank0"),
    )

    @property
    def world_size(self) -> int:
        """The number of ranks on all nodes; `procs` has to be concrete."""
        assert self.procs is not None
        return self.procs * self.nodes


@dataclass(frozen=True)
class CellOptions:
    """What one cell asks for, beside the ranks it runs on."""

    ranks: tuple[int, ...] | None = declare(
        None,
        "run on these ranks only, e.g. 0,2-3",
        flags="--ranks",
        parse=read_ranks,
        expects="ranks such as 0,2-3",
        write=lambda ranks: ",".join(map(str, ranks)),
    )
    out: str | None = declare(
        None,
        "bind each rank's last value to this notebook name, as a sequence over ranks",
        flags="-o --out",
        parse=read_name,
        expects="a Python variable name",
    )
    pull: tuple[str, ...] = declare(
        (),
        "bring these names back from the ranks, e.g. a,b; each becomes a sequence over ranks",
        flags="--pull",
        parse=read_names,
        expects="variable names such as a,b",
        write=",".join,
    )
    detach: bool = declare(
        False,
        "return a Run at once; the cell goes on in the background (--out NAME binds the Run)",
        flags="--detach",
    )
    fresh: bool = declare(
        False,
        "start new ranks for this cell; the variables of the old ones are lost",
        flags="--fresh",
    )


# What must be equal for a cell to run on the ranks that are already there.
SHAPE = ("procs", "device", "start", "cluster", "nodes")


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


def to_line(config: LaunchConfig) -> str:
    """Return the options, as on a magic line, that differ from the defaults.

    Examples
    --------
    >>> from accelnb.options.config import LaunchConfig, to_line
    >>> to_line(LaunchConfig(procs=4, mesh=(("dp_replicate", 2), ("tp", 2))))
    '--procs 4 --mesh dp_replicate=2,tp=2'
    """
    return " ".join(f"{o.flags[-1]} {o.write(value)}" for o, value in changed(config))


def changed(config: LaunchConfig) -> list[tuple[Option, Any]]:
    """Return the options whose value differs from the default, each with its value."""
    values = ((option, getattr(config, option.name)) for option in options(LaunchConfig))
    return [(option, value) for option, value in values if value != option.default]


def settings_for_ranks(config: LaunchConfig, everyone: bool = True) -> dict[str, Any]:
    """Return what a rank has to know of the options for one cell.

    Parameters
    ----------
    everyone
        Whether all ranks run the cell; otherwise a mesh cannot be made or taken away.
    """
    return {"environment": environment_of(config), "mesh": config.mesh if everyone else None}


def environment_of(config: LaunchConfig) -> dict[str, str]:
    """Return the variables by which an Accelerator takes over what a launch says.

    Examples
    --------
    >>> from accelnb.options.config import LaunchConfig, environment_of
    >>> environment_of(LaunchConfig(mesh=(("dp_shard", 2), ("tp", 2))))["ACCELNB_MESH"]
    'dp_shard=2,tp=2'
    """
    known = {option.name: option for option in options(LaunchConfig)}
    return {v: known[name].write(getattr(config, name)) for name, v in BY_OPTION.items()}


def possible(config: LaunchConfig, hardware: Hardware) -> dict[str, dict[str, str | None]]:
    """Say what each option with choices could be, given the others and the machine.

    Returns
    -------
    possible : dict
        For each option with choices: each choice, with None if it can be chosen, otherwise why
        not, in one line. Devices that need a plugin of torch are left out where there are none.

    Examples
    --------
    >>> from accelnb.options.config import LaunchConfig, possible
    >>> from accelnb.devices.hardware import Hardware
    >>> possible(LaunchConfig(), Hardware({"cpu": 8}))["precision"]
    {'no': None, 'fp16': None, 'bf16': None, 'fp8': 'cpu cannot; choose one of no, bf16, fp16'}
    """
    device = _device(config, hardware)
    found: dict[str, dict[str, str | None]] = {}
    for option in options(LaunchConfig):
        if option.choices:
            offered = hardware.offered() if option.name == "device" else option.choices
            asked = dict.fromkeys((*offered, getattr(config, option.name)))
            reasons = {c: _why_not(option.name, c, config, device, hardware) for c in asked}
            found[option.name] = reasons | dict(option.absent)
    return found


def _device(config: LaunchConfig, hardware: Hardware) -> str:
    if config.device == "auto":
        return hardware.best_device
    return hardware.known_as(config.device)


def _why_not(
    name: str, choice: str, config: LaunchConfig, device: str, hardware: Hardware
) -> str | None:
    """Return why ranks on `device` cannot have this choice of an option, None if they can."""
    if name == "strategy":
        return why_not_strategy(choice, config.mesh, config.nodes)
    if name == "device" and choice != "auto":
        return hardware.why_not(hardware.known_as(choice))
    if name == "precision" and choice not in (there := hardware.precisions(device)):
        return f"{device} cannot; choose one of {', '.join(there)}"
    if name == "cluster" and choice != "local" and importlib.util.find_spec("ray") is None:
        return "Ray is not installed here: pip install 'accelnb[ray]'"
    if name == "start" and choice not in ("auto", *(ways := hardware.start_methods(device))):
        return f"a rank on {device} cannot start so here; choose {' or '.join(('auto', *ways))}"
    return None


def most_procs(
    config: LaunchConfig, hardware: Hardware, *, names_device: bool = True
) -> int | None:
    """Return how many ranks a node can have at most, None if that has no limit.

    Parameters
    ----------
    names_device
        Whether the device of `config` was named for these ranks: only then they may share one.

    Examples
    --------
    >>> from accelnb.options.config import LaunchConfig, most_procs
    >>> from accelnb.devices.hardware import Hardware
    >>> most_procs(LaunchConfig(), Hardware({"cpu": 8, "cuda": 2}))
    2
    """
    device = _device(config, hardware)
    shares = DEVICES[device].shares
    asked = names_device and config.device != "auto" and config.cluster == "local"
    return None if shares == "always" or (shares == "asked" and asked) else hardware.count(device)


def sharing(config: LaunchConfig, hardware: Hardware) -> str | None:
    """Say what it means that there are more ranks than devices; None if there are not.

    Examples
    --------
    >>> from accelnb.options.config import LaunchConfig, sharing
    >>> from accelnb.devices.hardware import Hardware
    >>> sharing(LaunchConfig(procs=2, device="cuda"), Hardware({"cuda": 1})).partition(":")[0]
    '2 ranks share 1 cuda device'
    """
    count, procs = hardware.count(config.device), config.procs or 0
    if DEVICES[config.device].shares != "asked" or procs <= count:
        return None
    return (
        f"{procs} ranks share {count} {config.device} device{'s' * (count > 1)}: they take turns "
        "on it and share its memory, and collectives go through gloo, slower than nccl"
    )


def resolve(config: LaunchConfig, hardware: Hardware, *, names_device: bool = True) -> LaunchConfig:
    """Fill in what is automatic from `hardware` and refuse what it cannot do.

    Parameters
    ----------
    names_device
        As for `most_procs`.

    Raises
    ------
    ConfigError
        A device this machine lacks, more ranks than devices, a precision the device lacks, a
        mesh of another number of ranks or without what the strategy needs, or several nodes
        without a cluster.
    """
    if config.cluster == "local" and config.nodes > 1:
        reason = "this machine is one node; name a cluster, as in --cluster ray://head-node:10001"
        raise _option("nodes").refuse(config.nodes, reason)
    device = _device(config, hardware)
    for option in options(LaunchConfig):
        value = getattr(config, option.name)
        if option.choices and (reason := _why_not(option.name, value, config, device, hardware)):
            raise option.refuse(value, reason)
    if config.nodes > 1 and not DEVICES[device].rejoins:
        reason = f"ranks on {device} are on one machine in this version; use --nodes 1"
        raise _option("nodes").refuse(config.nodes, reason)
    most = most_procs(config, hardware, names_device=names_device)
    procs = _procs(config, device, hardware, most)
    mesh = _mesh(config, procs)
    start = hardware.start_methods(device)[0] if config.start == "auto" else config.start
    if start == "xla" and procs not in (1, chips := hardware.count(device)):
        said = f"torch_xla uses one chip or all; use --procs 1 or --procs {chips}"
        raise _option("procs").refuse(procs, said)
    return dataclasses.replace(config, device=device, procs=procs, mesh=mesh, start=start)


def _procs(config: LaunchConfig, device: str, hardware: Hardware, most: int | None) -> int:
    """Return how many ranks a node is to have: what the mesh and the machine have place for."""
    in_mesh = places(config.mesh)
    usual = 2 if DEVICES[device].shares == "always" else hardware.count(device)
    procs = config.procs or (in_mesh and in_mesh // config.nodes) or usual
    if most is not None and procs > most:
        asked = "procs" if config.procs else "mesh"
        can_share = DEVICES[device].shares == "asked" and config.cluster == "local"
        others = f"--device {device} for ranks that share one, or " if can_share else ""
        raise _option(asked).refuse(
            getattr(config, asked),
            f"{hardware.place} has {most} {device} device{'s' * (most > 1)}; "
            f"use --procs {most} at most, {others or 'or '}--device cpu",
        )
    return procs


def _mesh(config: LaunchConfig, procs: int) -> Dimensions:
    """Return the mesh with all its sizes, checked."""
    try:
        if config.strategy != "none":
            check_order(config.mesh)
        return filled(config.mesh, procs * config.nodes)
    except AccelnbError as error:
        said, in_mesh = str(error), places(config.mesh)
        if in_mesh and in_mesh % config.nodes == 0 and in_mesh != procs * config.nodes:
            said += f", or use --procs {in_mesh // config.nodes}"
        raise _option("mesh").refuse(config.mesh, said) from None


def _option(name: str) -> Option:
    return next(option for option in options(LaunchConfig) if option.name == name)
