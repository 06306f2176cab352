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

from accelnb.engine.run import Run
from accelnb.notebook.cell import read_cell
from accelnb.notebook.commands import Commands
from accelnb.notebook.session import Session
from accelnb.options.config import CellOptions, ConfigError, LaunchConfig, options
from accelnb.options.magic_line import split_options, without_comment

_OPTIONS = options(LaunchConfig, CellOptions)
_NO_OPTION = re.compile(r"--[A-Za-z][\w-]*")


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
        self._commands = Commands(shell, session, self._parse)

    # The cell form expands $var and {expr} in its line; the line form only in its options,
    # for its expression may hold a dict.
    @no_var_expand
    @_with_options
    @line_cell_magic
    def distributed(self, line: str, cell: str | None = None) -> Run | None:
        """Run a cell, or the expression on the line, on every rank.

        The last expression is each rank's value. `rank`, `local_rank`, `world_size` and
        `device` are there, and so is the process group. Names of the notebook are sent when a
        cell first uses them and when the notebook has bound them anew or changed them; what the
        ranks assign stays there for the next cell.
        """
        above = None
        if cell is None:
            line, cell = split_options(line)
            if wrong := _NO_OPTION.match(cell):
                line = wrong[0]  # refused like any option that there is not
            if not without_comment(cell):
                cell = ""
        else:
            above = f"%%distributed {line}".rstrip() + "\n"
            line = without_comment(line)
        given = self._parse(line)
        if not cell.strip():
            raise ConfigError("%distributed: there is no code to run; see %%distributed?")
        return self._session.run_cell(read_cell(self.shell, above, cell), given)

    @line_magic
    def accelnb(self, line: str) -> None:
        """Open the panel, or look after the ranks.

        %accelnb                     the panel: choose hardware and options, test, save
        %accelnb config              the options in force and where each comes from
                                     (--ignore-file: do without accelnb.yaml in this session;
                                     --reset: forget that, and what was chosen for the session)
        %accelnb test                try the options, or those given, on ranks of their own
        %accelnb env                 this machine and its software (--plain: for a bug report)
        %accelnb status              each rank: process, memory, what it runs
        %accelnb stacks              where each rank is, also when it hangs
        %accelnb view                show the newest run again
        %accelnb pull a,b            bring variables back, each as a sequence over ranks
        %accelnb push a,b            send the notebook's variables to the ranks
        %accelnb interrupt           stop a detached cell
        %accelnb restart             start the ranks anew; their variables are lost
        %accelnb shutdown            end them
        %accelnb export train.py     write the notebook as a script (--slurm, --ray, --config,
                                     --accelerate write what launches it, --force replaces)
        %accelnb auto on             run every cell on the ranks, but for %%local ones (or off)

        pull and push take --ranks 0,2-3. Where there are no widgets, %accelnb shows the status.
        """
        self._commands.run(without_comment(line))

    def _parse(self, line: str) -> dict[str, Any]:
        expanded = self.shell.var_expand(line, depth=3) if line else ""
        try:
            return vars(parse_argstring(self.distributed, expanded))
        except (UsageError, ValueError) as error:  # ValueError: a quote that is not closed
            raise ConfigError(
                f"%%distributed: {error}; see %%distributed? for its options"
            ) from None


def complete_options(_: Any, event: Any) -> list[str]:
    """Complete option names and their choices on a `%%distributed` line."""
    words = event.line.split()
    before = words[-1] if event.line.endswith(" ") else words[-2] if len(words) > 1 else ""
    for option in _OPTIONS:
        if before in option.flags and option.choices:
            return list(option.choices)
    return [flag for option in _OPTIONS for flag in option.flags if flag.startswith("--")]
