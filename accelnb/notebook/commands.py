"""The sub-commands of `%accelnb`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from accelnb.devices.memory_size import in_words
from accelnb.engine.early_start import under_way
from accelnb.engine.stall_report import stacks_report
from accelnb.errors import AccelnbError
from accelnb.jupyter import front_ends
from accelnb.notebook.auto_mode import switch
from accelnb.notebook.defaults import Defaults
from accelnb.notebook.session import Session
from accelnb.notebook.views.sharing import place_of_each, sharing_in_words
from accelnb.notebook.views.updated_display import in_kernel
from accelnb.options.config import (
    CellOptions,
    ConfigError,
    LaunchConfig,
    from_mapping,
    options,
    to_line,
)

# Each command with the words that may follow it; None: it reads what follows itself.
COMMANDS: dict[str, tuple[str, ...] | None] = {
    "status": (),
    "stacks": (),
    "pull": None,
    "push": None,
    "interrupt": (),
    "restart": (),
    "shutdown": (),
    "config": ("--ignore-file", "--reset"),
    "test": None,
    "env": ("--plain",),
    "view": (),
    "export": None,
    "auto": ("on", "off"),
}
_EXPORT = ("--slurm", "--ray", "--config", "--accelerate", "--force")
_RANKS = re.compile(r"(?:^|\s)--ranks[\s=]*(?P<which>\S*)")


class Commands:
    """What `%accelnb COMMAND` does, a method each; `run` chooses.

    Parameters
    ----------
    read_options
        Reads launch options as a `%%distributed` line has them.
    """

    def __init__(
        self,
        shell: InteractiveShell,
        session: Session,
        read_options: Callable[[str], dict[str, Any]],
    ) -> None:
        self._shell = shell
        self._session = session
        self._read_options = read_options

    def run(self, line: str) -> None:
        """Do what the rest of a `%accelnb` line says."""
        command, _, rest = line.strip().partition(" ")
        if not command:
            self._open()
            return
        if command not in COMMANDS:
            raise ConfigError(f"%accelnb {command}: choose one of {', '.join(COMMANDS)}")
        may_follow, rest = COMMANDS[command], rest.strip()
        if may_follow is not None and rest not in ("", *may_follow):
            if not may_follow:
                raise ConfigError(f"%accelnb {command} takes nothing more, so not {rest}")
            raise ConfigError(f"%accelnb {command} {rest}: choose one of {', '.join(may_follow)}")
        getattr(self, f"_{command}")(rest)

    def _open(self) -> None:
        if not front_ends.shows_controls():
            self._status("")
            return
        from accelnb.notebook.panel.panel import open_panel

        open_panel(self._session)

    # ---- the ranks ----

    def _status(self, _: str) -> None:
        print(status(self._session))

    def _stacks(self, _: str) -> None:
        print(stacks_report(self._session.where()))

    def _pull(self, rest: str) -> None:
        self._shell.push(self._session.pull(*_names_and_ranks("pull", rest)))

    def _push(self, rest: str) -> None:
        self._session.push(*_names_and_ranks("push", rest))

    def _interrupt(self, _: str) -> None:
        self._session.interrupt()

    def _restart(self, _: str) -> None:
        self._session.restart()

    def _shutdown(self, _: str) -> None:
        self._session.shutdown()

    # ---- options and the machine ----

    def _config(self, word: str) -> None:
        settings = self._session.settings
        if word == "--ignore-file":
            settings.ignores_file = True
        elif word == "--reset":
            settings.chosen, settings.ignores_file = None, False
        print(in_force(settings))

    def _test(self, rest: str) -> None:
        from rich.console import Console

        from accelnb.cli.selftest import self_test, show

        given = self._read_options(rest)
        if unknown := given.keys() - {option.name for option in options(LaunchConfig)}:
            raise ConfigError(f"%accelnb test takes no --{min(unknown)}: it runs no cell of yours")
        config = from_mapping(LaunchConfig, given, self._session.defaults())
        # A kernel's stdout takes itself for a terminal, where a notebook shows plain lines.
        terminal = False if in_kernel() else None
        console = Console(force_terminal=terminal, force_jupyter=False)
        last = show(self_test(config), console)
        if last.status == "failed":
            raise AccelnbError(f"the test failed at {last.name}: {last.detail}")

    def _env(self, word: str) -> None:
        from accelnb.cli.env import show

        show(plain=bool(word))

    def _view(self, _: str) -> None:
        run = self._session.last_run
        if run is None:
            raise AccelnbError("there is no run yet: run a %%distributed cell first")
        if not front_ends.shows_widgets():
            print(run)
            return
        from accelnb.notebook.views.live_view.view import show_again

        show_again(run)

    def _export(self, rest: str) -> None:
        from accelnb.export import live

        words = shlex.split(rest)
        files = [word for word in words if not word.startswith("-")]
        flags = [word for word in words if word.startswith("-")]
        for flag in flags:
            if flag not in _EXPORT:
                raise ConfigError(f"%accelnb export {flag}: choose of {', '.join(_EXPORT)}")
        if len(files) > 1:
            raise ConfigError(f"%accelnb export writes one script, so not {' and '.join(files)}")
        exported = live(
            self._shell,
            *files,
            launchers=[flag[2:] for flag in flags if flag != "--force"],
            force="--force" in flags,
            base=self._session.defaults(),
        )
        print("\n".join(exported.said()))

    def _auto(self, word: str) -> None:
        if not word:
            raise ConfigError("%accelnb auto: say on or off")
        switch(self._shell, word == "on")


def in_force(settings: Defaults) -> str:
    """Return a table of the options of a cell that gives none, and where each comes from."""
    config, origins = settings.config(), settings.origins()
    rows = [
        (option.name, option.write(getattr(config, option.name)), origins.get(option.name, ""))
        for option in options(LaunchConfig)
    ]
    widths = [max(len(row[at]) for row in rows) for at in (0, 1)]
    table = [f"{n:<{widths[0]}}  {text:<{widths[1]}}  {o}".rstrip() for n, text, o in rows]
    line = f"%%distributed {to_line(config)}".rstrip()
    return "\n".join([*table, "", f"as a line: {line}", _about_file(settings)])


def _about_file(settings: Defaults) -> str:
    if settings.chosen is not None:
        return f"{settings.path} is not asked: this session has a choice; --reset forgets that"
    if settings.ignores_file:
        return f"{settings.path} is ignored in this session; --reset reads it again"
    there = settings.path.exists()
    return f"{settings.path} {'is in force' if there else 'does not exist'}"


def status(session: Session) -> str:
    """Return a line for each rank: its process, its memory, what it runs."""
    group = session.group
    if (group is None or not group.alive) and under_way():
        return "the ranks are being started"
    if group is None or not group.alive:
        return "no ranks: the next %%distributed cell starts them"
    run = session.last_run
    busy = f"busy for {run.seconds:.0f} s" if group.busy and run is not None else "idle"
    lines = [
        f"{len(group.ranks)} ranks on {group.config.device}, "
        f"started by {group.config.start}, {busy}"
    ]
    config = session.arranged or group.config
    if said := sharing_in_words(config):
        lines[0] += f": {said}"
    in_mesh = place_of_each(config) or [""] * len(group.ranks)
    for member, place, at in zip(group.workers, group.where(), in_mesh, strict=True):
        if member.exit:
            lines.append(f"rank {member.rank}: ended ({member.exit.code}), will be replaced")
            continue
        memory = [f"{in_words(place.memory)} memory"] if place.memory else []
        if place.device_memory is not None:
            memory.append(f"{in_words(place.device_memory)} on the device")
        said = [*filter(None, [at]), f"pid {member.pid}", *memory, place.describe()]
        lines.append(f"rank {member.rank}: {', '.join(said)}")
    return "\n".join(lines)


def complete_commands(_: Any, event: Any) -> list[str]:
    """Complete sub-commands, and the words that follow them, on a `%accelnb` line."""
    words = event.line.split()
    if len(words) < 2 or (len(words) == 2 and not event.line.endswith(" ")):
        return list(COMMANDS)
    return list(COMMANDS.get(words[1]) or ())


def _names_and_ranks(command: str, rest: str) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """Read `a,b --ranks 0` behind a command, by the rules that config.py has for cells."""
    ranks = _RANKS.search(rest)
    names = _RANKS.sub(" ", rest)
    given = {"pull": ",".join(names.replace(",", " ").split())}
    if ranks is not None:
        given["ranks"] = ranks["which"]
    if not given["pull"]:
        raise ConfigError(f"%accelnb {command}: say which variables, such as a,b")
    read = from_mapping(CellOptions, given)
    return read.pull, read.ranks
