"""torch's elastic launcher: its arguments read by its own parser, its errors said in one line."""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from accelnb.cli.launching import failure_report, restart_messages
from accelnb.cli.launching.target import Target
from accelnb.errors import AccelnbError

_OUR_RANK = ("-m", "accelnb.cli.launching.rank_process")


class WrongArgument(AccelnbError):
    """An argument of the launch has a value it cannot have. Nothing was started."""


def parser() -> argparse.ArgumentParser:
    """Return what reads the arguments of this torch's torchrun.

    Examples
    --------
    >>> from accelnb.cli.launching.torchrun import parser
    >>> {action.dest for action in parser()._actions} >= {"nnodes", "rdzv_endpoint", "max_restarts"}
    True
    """
    from torch.distributed.run import get_args_parser

    return get_args_parser()


def read(given: Mapping[str, Any]) -> argparse.Namespace:
    """Return torchrun's arguments, those not given with torchrun's defaults and PET_ variables.

    Raises
    ------
    WrongArgument
        A value is wrong.
    """
    reader = parser()
    reader.exit_on_error = False
    flags = {action.dest: action.option_strings for action in reader._actions}
    words = []
    for name, value in given.items():
        if value is None or value is False:
            continue
        flag = max(flags[name], key=len)
        words.append(flag if value is True else f"{flag}={value}")
    try:
        return reader.parse_args([*words, "script"])
    except (argparse.ArgumentError, ValueError) as error:
        said = str(error).removeprefix("argument ")
        raise WrongArgument(re.sub(r"(--[\w-]+)/--\w+:", r"\1:", said)) from None


def processes(arguments: argparse.Namespace) -> int:
    """Return how many processes a machine gets.

    Raises
    ------
    WrongArgument
        The text is neither a number nor a kind of device that is here.
    """
    from torch.distributed.run import determine_local_world_size

    text = arguments.nproc_per_node
    try:
        number = determine_local_world_size(text)
    except (ValueError, RuntimeError) as error:
        raise WrongArgument(f"--nproc-per-node {text}: {error}") from None
    if number < 1:
        raise WrongArgument(f"--nproc-per-node {text}: must be at least 1")
    return number


def nodes(arguments: argparse.Namespace) -> tuple[int, int]:
    """Return how few and how many machines take part.

    Raises
    ------
    WrongArgument
        The text is no number and no range.
    """
    from torch.distributed.run import parse_min_max_nnodes

    try:
        least, most = parse_min_max_nnodes(arguments.nnodes)
    except (ValueError, RuntimeError):
        least = most = 0
    if not 0 < least <= most:
        raise WrongArgument(
            f"--nnodes {arguments.nnodes}: give a number, or MIN:MAX with 1 <= MIN <= MAX"
        )
    return least, most


def run(arguments: argparse.Namespace, target: Target) -> int:
    """Start the processes and wait for them; return the exit code that a shell expects.

    Raises
    ------
    AccelnbError
        The machines did not find each other.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    _be_quiet()
    who = "rank" if nodes(arguments)[1] == 1 else "local rank"
    try:
        with (
            restart_messages.told(arguments.max_restarts, who),
            tempfile.TemporaryDirectory(prefix="accelnb-launch-") as folder,
        ):
            made = _with_command(arguments, target)
            if made.log_dir is None and made.tee == made.redirects == "0":
                made.log_dir = folder  # for the files with errors: torch would leave its own
            torchrun.run(made)
        return 0
    except ChildFailedError as error:
        said = failure_report.report(error.failures, target.whose_lines)
        print(said, file=sys.stderr, flush=True)
        return failure_report.exit_code(error.failures)
    except SignalException as error:
        name = signal.Signals(error.sigval).name
        print(f"accelnb: stopped by {name}; all processes have ended", file=sys.stderr)
        return 128 + error.sigval
    except Exception as error:
        if said := _did_not_meet(error, arguments):
            raise AccelnbError(said) from error
        raise


def _with_command(arguments: argparse.Namespace, target: Target) -> argparse.Namespace:
    """Return the arguments with what each process shall run: the target, in a rank of ours."""
    made = argparse.Namespace(**vars(arguments))
    made.no_python, made.module, made.run_path = True, False, False
    if target.kind == "program":
        made.training_script, made.training_script_args = target.name, list(target.arguments)
        return made
    made.training_script = sys.executable
    rank = [*_OUR_RANK, str(os.getpid()), target.kind, target.works_in, target.name]
    made.training_script_args = [*rank, *target.arguments]
    return made


def _did_not_meet(error: Exception, arguments: argparse.Namespace) -> str:
    """Return what a failed meeting of the machines means; empty if it is something else."""
    from torch.distributed import DistError
    from torch.distributed.elastic.rendezvous.api import (
        RendezvousClosedError,
        RendezvousError,
        RendezvousTimeoutError,
    )

    if not isinstance(error, RendezvousError | DistError | TimeoutError):
        return ""
    where = arguments.rdzv_endpoint or f"{arguments.master_addr}:{arguments.master_port}"
    if isinstance(error, RendezvousTimeoutError | TimeoutError):
        return (
            f"the {arguments.nnodes} machines did not come together at {where} in time: start the "
            "same command on each of them, and let them reach that port"
        )
    if isinstance(error, RendezvousClosedError):
        return (
            f"the launch with --rdzv-id {arguments.rdzv_id} at {where} is over for the other "
            "machines: start all of them anew"
        )
    said = str(error).strip().partition("\n")[0].partition("C++ stacktrace")[0].rstrip(". ")
    if "EADDRINUSE" in said:
        return f"the port of {where} is taken on this machine: give another, or none on one machine"
    return (
        f"no launcher answers at {where} ({said}): start one on that machine too, with a port "
        "that is free there and open to the others"
    )


def _be_quiet() -> None:
    """Silence torch's log of each step of a shutdown, unless LOGLEVEL asks for it."""
    if "LOGLEVEL" in os.environ or "TORCH_LOGS" in os.environ:
        return
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.distributed.run")):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
