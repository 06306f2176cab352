"""`launch`: start the processes of a target, or be one of those that are started already."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from accelnb.cli.launching import reachable_address, torchrun
from accelnb.cli.launching.mpi_slurm import Started, started
from accelnb.cli.launching.target import Target, as_script
from accelnb.options import environment
from accelnb.options.config import LaunchConfig, options, sharing
from accelnb.training.accelerate_names import patch_environment

# Arguments that say how many processes there are and where: with one of them this is a launcher,
# also where it was started by srun, once on each machine.
_PLACES_PROCESSES = (
    *("nproc_per_node", "nnodes", "node_rank", "max_restarts", "standalone"),
    *("rdzv_backend", "rdzv_endpoint", "rdzv_id", "rdzv_conf", "master_addr", "master_port"),
)
# torch's launchers give all attempts one store (torch 2.13). Ranks that start again find in it the
# addresses of those that ended, and cannot connect. And a launcher that comes back after its
# machine died waits for ever for the store's address, which the others published at their start.
_OWN_STORES = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def launch(
    target: Target,
    given: Mapping[str, Any] | None = None,
    config: LaunchConfig | None = None,
    settings: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> int:
    """Run a target on several processes and wait for them.

    Parameters
    ----------
    target
        As `find_target` returns it.
    given
        Arguments of torchrun, by their names with underscores.
    config
        How many processes, on which device; resolved. Unused where `given` says the number.
    settings
        Options that the script's Accelerator takes over: those of `environment.BY_OPTION`.

    environ
        Other variables that all processes get.

    Returns
    -------
    code : int
        The exit code of the rank that failed first, 0 if none did.

    Raises
    ------
    AccelnbError
        An argument is wrong, or the machines cannot reach each other.

    Examples
    --------
    >>> from accelnb.cli.launching import find_target, launch
    >>> launch(find_target("true", program=True), {"nproc_per_node": "2"})
    0
    """
    given = given or {}
    variables = {**(environ or {}), **_for_accelerator(config, settings or {})}
    place = started(os.environ, os.getppid())
    if place is not None and not any(given.get(name) for name in _PLACES_PROCESSES):
        return _run_in_place(target, place, variables | _sharing(config))
    arguments = torchrun.read(given)
    if not given.get("nproc_per_node") and "PET_NPROC_PER_NODE" not in os.environ and config:
        arguments.nproc_per_node = str(config.procs)
    processes = torchrun.processes(arguments)
    variables |= _share_of_cores(processes)
    variables |= _sharing(config and replace(config, procs=processes))
    variables |= _choose_meeting_point(arguments, given)
    with as_script(target) as ready, patch_environment(**variables):
        return torchrun.run(arguments, ready)


def _run_in_place(target: Target, place: Started, variables: dict[str, str]) -> int:
    from accelnb.cli.launching import rank_process

    share = _share_of_cores(place.local_size)
    if share and place.by == "Slurm":
        of_task = environment.number("SLURM_CPUS_PER_TASK", default=0)
        share = {environment.THREADS: str(of_task)} if of_task else share
    variables = place.variables(os.environ) | share | variables
    if place.nodes > 1:
        meeting = f"{variables['MASTER_ADDR']}:{variables['MASTER_PORT']}"
        variables |= _reached_by(reachable_address.reach(meeting, os.environ))
    with as_script(target) as ready, patch_environment(**variables):
        if ready.kind == "program":
            os.execvp(ready.name, [ready.name, *ready.arguments])
        rank_process.run(ready.kind, ready.name, ready.arguments, ready.works_in, ready.whose_lines)
    return 0


def _choose_meeting_point(
    arguments: argparse.Namespace, given: Mapping[str, Any]
) -> dict[str, str]:
    """Fill in how the machines meet; return variables that the ranks need for it."""
    _, most = torchrun.nodes(arguments)
    said = {name for name, value in given.items() if value}
    said |= {name for name in vars(arguments) if f"PET_{name.upper()}" in os.environ}
    if most == 1:
        if not said & {"rdzv_endpoint", "rdzv_backend", "master_addr", "master_port"}:
            arguments.standalone = True  # a free port of the loopback
            arguments.local_addr = arguments.local_addr or "localhost"
        return _OWN_STORES if arguments.max_restarts else {}
    if arguments.standalone:
        raise torchrun.WrongArgument(
            f"--standalone is for one machine, and --nnodes {arguments.nnodes} are more"
        )
    if not said & {"rdzv_endpoint", "master_addr"}:
        raise torchrun.WrongArgument(
            f"--nnodes {arguments.nnodes}: say where the machines meet, with the same "
            "--rdzv-endpoint HOST:PORT on each; HOST is one of them"
        )
    if "rdzv_endpoint" in said and not said & {"rdzv_backend", "node_rank"}:
        arguments.rdzv_backend = "c10d"
    if arguments.rdzv_backend not in ("c10d", "static"):
        return {}  # a service of its own, which knows its addresses
    if arguments.master_port is None:
        arguments.master_port = 29500  # what torchrun takes
    at = arguments.rdzv_endpoint or f"{arguments.master_addr}:{arguments.master_port}"
    found = reachable_address.reach(at, os.environ)
    arguments.local_addr = arguments.local_addr or found.address
    if found.is_meeting_point and arguments.rdzv_backend == "c10d":
        arguments.rdzv_endpoint = f"localhost:{at.rpartition(':')[2]}"
    return _OWN_STORES | _reached_by(found)


def _reached_by(found: reachable_address.Reach) -> dict[str, str]:
    if found.note:
        print(f"accelnb: {found.note}", file=sys.stderr, flush=True)
    return dict(found.variables)


def _for_accelerator(config: LaunchConfig | None, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables by which an Accelerator takes over the launch's options."""
    known = {option.name: option for option in options(LaunchConfig)}
    variables = {
        environment.BY_OPTION[name]: known[name].write(known[name].read(value))
        for name, value in settings.items()
        if name in environment.BY_OPTION
    }
    if config is None:
        return variables
    variables[environment.DEVICE] = config.device
    if config.device == "cpu":
        variables[environment.USE_CPU] = "true"
    return variables


def _sharing(config: LaunchConfig | None) -> dict[str, str]:
    """Return the variable that tells processes that they share devices, and say so."""
    from accelnb.devices.hardware import probe

    note = config and sharing(config, probe())
    if not note:
        return {}
    print(f"accelnb: {note}", file=sys.stderr, flush=True)
    return {environment.SHARED: "true"}


def _share_of_cores(processes: int) -> dict[str, str]:
    """Return the threads of each process, as many as a notebook's rank has."""
    if environment.threads() is not None:
        return {}
    if said := environment.wrong_threads():
        print(f"accelnb: {said}", file=sys.stderr, flush=True)
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return {environment.THREADS: str(max(1, cores // processes))}
