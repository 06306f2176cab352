"""`%%distributed` and `%accelnb`: parse, run, show."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import (
    Magics,
    line_cell_magic,
    line_magic,
    magics_class,
    no_var_expand,
)
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from accelnb.config import CellOptions, ConfigError, LaunchConfig, from_mapping, options
from accelnb.engine.doctor import stacks_report
from accelnb.engine.run import Run
from accelnb.notebook.cell import read_cell
from accelnb.notebook.session import Session

_OPTIONS = options(LaunchConfig, CellOptions)
_COMMANDS = ("status", "stacks", "pull", "push", "interrupt", "restart", "shutdown")
_RANKS = re.compile(r"(?:^|\s)--ranks[\s=]*(?P<which>\S*)")
_NO_OPTION = re.compile(r"--[A-Za-z][\w-]*")
_WORD = re.compile(r"\s*(?P<flag>--?[\w-]+)(?P<equals>=)?")


def _with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a magic the arguments that config.py declares."""
    for option in reversed(_OPTIONS):
        settings: dict[str, Any] = {"help": option.help, "default": argparse.SUPPRESS}
        if option.is_switch:
            settings["action"] = "store_true"
        elif option.choices:
            settings["metavar"] = "{" + ",".join(option.choices) + "}"
        function = argument(*option.flags, dest=option.name, **settings)(function)
    return magic_arguments()(function)


@magics_class
class AccelnbMagics(Magics):
    """The magics that `%load_ext accelnb` brings."""

    shell: InteractiveShell

    def __init__(self, shell: InteractiveShell, session: Session) -> None:
        super().__init__(shell)
        self._session = session

    # The cell form expands $var and {expr} in its line; the line form only in its options,
    # for its expression may hold a dict.
    @no_var_expand
    @_with_options
    @line_cell_magic
    def distributed(self, line: str, cell: str | None = None) -> Run | None:
        """Run a cell, or the expression on the line, on every rank.

        The last expression is each rank's value. `rank`, `local_rank`, `world_size` and
        `device` are there, and so is the process group. Names of the notebook are sent when a
        cell first uses them and when they are bound anew; what the ranks assign stays there
        for the next cell.
        """
        above = None
        if cell is None:
            line, cell = split_options(line)
            if wrong := _NO_OPTION.match(cell):
                line = wrong[0]  # refused like any option that there is not
        else:
            above = f"%%distributed {line}".rstrip() + "\n"
        given = self._parse(line)
        if not cell.strip():
            raise ConfigError("%distributed: there is no code to run; see %%distributed?")
        return self._session.run_cell(read_cell(self.shell, above, cell), given)

    @line_magic
    def accelnb(self, line: str) -> None:
        """Look after the ranks.

        %accelnb status              each rank: process, memory, what it runs
        %accelnb stacks              where each rank is, also when it hangs
        %accelnb pull a,b            bring variables back, each as a sequence over ranks
        %accelnb push a,b            send the notebook's variables to the ranks
        %accelnb interrupt           stop a detached cell
        %accelnb restart             start the ranks anew; their variables are lost
        %accelnb shutdown            end them

        pull and push take --ranks 0,2-3.
        """
        command, _, rest = (line.strip() or "status").partition(" ")
        if command not in _COMMANDS:
            raise ConfigError(f"%accelnb {command}: choose one of {', '.join(_COMMANDS)}")
        if command in ("pull", "push"):
            names, ranks = _names_and_ranks(command, rest)
            getattr(self, f"_{command}")(names, ranks)
        elif rest:
            raise ConfigError(f"%accelnb {command} takes nothing more, so not {rest.strip()}")
        elif command == "status":
            print(self._status())
        elif command == "stacks":
            print(stacks_report(self._session.where()))
        else:
            getattr(self._session, command)()

    def _pull(self, names: Sequence[str], ranks: tuple[int, ...] | None) -> None:
        self.shell.push(self._session.pull(names, ranks))

    def _push(self, names: Sequence[str], ranks: tuple[int, ...] | None) -> None:
        self._session.push(names, ranks)

    def _parse(self, line: str) -> dict[str, Any]:
        expanded = self.shell.var_expand(line, depth=3) if line else ""
        try:
            return vars(parse_argstring(self.distributed, expanded))
        except (UsageError, ValueError) as error:  # ValueError: a quote that is not closed
            raise ConfigError(
                f"%%distributed: {error}; see %%distributed? for its options"
            ) from None

    def _status(self) -> str:
        group = self._session.group
        if group is None or not group.alive:
            return "no ranks: the next %%distributed cell starts them"
        run = self._session.last_run
        busy = f"busy for {run.seconds:.0f} s" if group.busy and run is not None else "idle"
        lines = [
            f"{len(group.ranks)} ranks on {group.config.device}, "
            f"started by {group.config.start}, {busy}"
        ]
        for member, place in zip(group.members, group.where(), strict=True):
            if member.exit:
                lines.append(f"rank {member.rank}: ended ({member.exit.code}), will be replaced")
                continue
            memory = [f"{_mib(place.memory)} memory"] if place.memory else []
            if place.device_memory is not None:
                memory.append(f"{_mib(place.device_memory)} on the device")
            said = [f"pid {member.pid}", *memory, place.describe()]
            lines.append(f"rank {member.rank}: {', '.join(said)}")
        return "\n".join(lines)


def _names_and_ranks(command: str, rest: str) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """Read `a,b --ranks 0` behind a command, by the rules that config.py has for cells."""
    ranks = _RANKS.search(rest)
    names = _RANKS.sub(" ", rest)
    given = {"pull": ",".join(names.replace(",", " ").split())}
    if ranks is not None:
        given["ranks"] = ranks["which"]
    if not given["pull"]:
        raise ConfigError(f"%accelnb {command}: say which variables, such as a,b")
    options = from_mapping(CellOptions, given)
    return options.pull, options.ranks


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"


def split_options(line: str) -> tuple[str, str]:
    """Split `--ranks 0,1 x - y` into its options and its expression."""
    takes_value = {flag: not option.is_switch for option in _OPTIONS for flag in option.flags}
    at = 0
    while (word := _WORD.match(line, at)) and word["flag"] in takes_value:
        at = word.end()
        if takes_value[word["flag"]]:
            value = re.compile(r"\s*\S+").match(line, at)
            at = value.end() if value else at
    return line[:at], line[at:].lstrip()


def complete_options(_: Any, event: Any) -> list[str]:
    """Complete option names and their choices on a `%%distributed` line."""
    words = event.line.split()
    before = words[-1] if event.line.endswith(" ") else words[-2] if len(words) > 1 else ""
    for option in _OPTIONS:
        if before in option.flags and option.choices:
            return list(option.choices)
    return [flag for option in _OPTIONS for flag in option.flags if flag.startswith("--")]
