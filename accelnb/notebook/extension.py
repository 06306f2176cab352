"""What `%load_ext accelnb` and `%unload_ext accelnb` do."""

from __future__ import annotations

import os
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from accelnb.engine.early_start import discard_early
from accelnb.engine.launchers.local import close_fork_server, fork_server
from accelnb.engine.run import Run
from accelnb.notebook.auto_mode import AutoCells
from accelnb.notebook.commands import complete_commands
from accelnb.notebook.completion import Assist
from accelnb.notebook.magics import AccelnbMagics, complete_options
from accelnb.notebook.session import Session
from accelnb.notebook.views.show_run import run_html

_sessions: dict[int, Session] = {}  # by the shell's id
_additions: dict[int, tuple[AutoCells, Assist]] = {}


def load(shell: InteractiveShell) -> None:
    """Bring the magics and start the fork server in the background."""
    if in_rank():
        return  # a rank's shell refuses the magics with its own message
    if id(shell) in _sessions:
        return
    fork_server()
    session = _sessions[id(shell)] = Session(shell)
    for event, callback in session.requests.callbacks().items():
        shell.events.register(event, callback)
    shell.register_magics(AccelnbMagics(shell, session))
    auto = AutoCells(shell, session)
    additions = _additions[id(shell)] = (auto, Assist(shell, session, auto))
    for addition in additions:
        addition.install()
    _mime_bundles(shell).for_type(Run, run_html)
    for magic in ("%%distributed", "%distributed"):
        shell.set_hook("complete_command", complete_options, str_key=magic)
    shell.set_hook("complete_command", complete_commands, str_key="%accelnb")


def unload(shell: InteractiveShell) -> None:
    """End the ranks and the fork server, and take the magics away."""
    session = _sessions.pop(id(shell), None)
    if session is None:
        return
    for event, callback in session.requests.callbacks().items():
        shell.events.unregister(event, callback)
    _mime_bundles(shell).pop(Run, None)
    for addition in _additions.pop(id(shell)):
        addition.remove()
    session.shutdown()
    discard_early()
    close_fork_server()
    for kind, name in (("cell", "distributed"), ("line", "distributed"), ("line", "accelnb")):
        shell.magics_manager.magics[kind].pop(name, None)


def _mime_bundles(shell: InteractiveShell) -> Any:
    formatter: Any = shell.display_formatter
    return formatter.mimebundle_formatter


def session_of(shell: InteractiveShell | None) -> Session | None:
    """Return what the extension keeps for a notebook that loaded it."""
    return _sessions.get(id(shell))


def in_rank() -> bool:
    """Return whether this process is a rank itself."""
    return os.environ.get("ACCELNB_RANK", "").partition(":")[0] == str(os.getpid())
