"""`%%distributed` and `%accelnb`: parse, run, show."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
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

from accelnb.config import CellOptions, ConfigError, LaunchConfig, options
from accelnb.notebook.cell import read_cell
from accelnb.notebook.session import Session

_OPTIONS = options(LaunchConfig, CellOptions)
_COMMANDS = ("status", "restart", "shutdown")
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
    def distributed(self, line: str, cell: str | None = None) -> None:
        """Run a cell, or the expression on the line, on every rank.

        The last expression is each rank's value. `rank`, `local_rank`, `world_size` and
        `device` are there, and so is the process group. Names of the notebook are sent when a
        cell first uses them and when they are bound anew; what the ranks assign stays there
        for the next cell.
        """
        if cell is None:
            above = ""
            line, cell = split_options(line)
        else:
            above = f"%%distributed {line}".rstrip() + "\n"
        given = self._parse(line)
        if not cell.strip():
            raise ConfigError("%distributed: there is no code to run; see %%distributed?")
        self._session.run_cell(read_cell(self.shell, above, cell), given)

    @line_magic
    def accelnb(self, line: str) -> str | None:
        """Look after the ranks: `%accelnb status`, `restart` or `shutdown`."""
        command = line.strip() or "status"
        if command == "status":
            return self._status()
        if command not in _COMMANDS:
            raise ConfigError(f"%accelnb {command}: choose one of {', '.join(_COMMANDS)}")
        getattr(self._session, command)()
        return None

    def _parse(self, line: str) -> dict[str, Any]:
        expanded = self.shell.var_expand(line, depth=3) if line else ""
        try:
            return vars(parse_argstring(self.distributed, expanded))
        except UsageError as error:
            raise ConfigError(
                f"%%distributed: {error}; see %%distributed? for its options"
            ) from None

    def _status(self) -> None:
        group = self._session.group
        if group is None or not group.alive:
            print("no ranks: the next %%distributed cell starts them")
            return
        print(f"{len(group.ranks)} ranks on {group.config.device}, started by {group.config.start}")
        for member in group.members:
            state = (
                f"ended ({member.exit.code})" if member.exit else "busy" if group.busy else "idle"
            )
            print(f"rank {member.rank}: pid {member.pid}, {state}")


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
