"""A Jupyter kernel with accelnb loaded and ranks started.

``python -m accelnb.notebook.kernel -f FILE`` starts it. It is ipykernel's with a few options more,
which ``accelnb kernel install`` writes into the kernelspec. What is wrong with them is told in the
notebook, for nobody sees a kernel's own output.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from accelnb.devices.hardware import probe
from accelnb.engine.early_start import ready, start_early
from accelnb.notebook import auto_mode
from accelnb.notebook.extension import load, session_of
from accelnb.notebook.notices import say
from accelnb.notebook.session import Session
from accelnb.options.config import ConfigError, LaunchConfig, from_mapping, options, resolve
from accelnb.options.environment import working_folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the kernel until its front end ends it."""
    from ipykernel.kernelapp import IPKernelApp

    if sys.path and sys.path[0] in ("", working_folder()):
        del sys.path[0]  # as ipykernel's launcher does: a notebook's random.py is no module of ours
    own, of_ipykernel = read_arguments(sys.argv[1:] if arguments is None else arguments)
    app = IPKernelApp.instance()
    app.initialize(of_ipykernel)
    assert app.shell is not None
    prepare(app.shell, own)
    app.start()


def read_arguments(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Split a command line into launch options, as text, and what is for ipykernel.

    Examples
    --------
    >>> from accelnb.notebook.kernel import read_arguments
    >>> read_arguments(["-f", "connection.json", "--procs", "4", "--auto"])
    ({'procs': '4', 'auto': True}, ['-f', 'connection.json'])
    """
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    for option in options(LaunchConfig):
        parser.add_argument(option.flags[-1], dest=option.name)
    parser.add_argument("--auto", action="store_true")
    own, others = parser.parse_known_args(arguments)
    return vars(own), others


def prepare(shell: InteractiveShell, own: dict[str, Any]) -> None:
    """Load the extension and begin to start the ranks that the options ask for."""
    load(shell)
    session = session_of(shell)
    assert session is not None
    auto_mode.switch(shell, own.get("auto", False))
    try:
        session.settings.of_kernel = from_mapping(LaunchConfig, own)
    except ConfigError as error:
        said = f"an option of this kernel is wrong, so none is used: {error}"
        _at_next_cell(shell, lambda: say(said))
        return
    try:
        defaults = session.defaults()
        if defaults.cluster != "local":
            return  # the first cell takes its place there, so that a kernel alone takes none
        config = resolve(defaults, probe())
    except ConfigError:
        return  # the first cell for the ranks finds out the same, and says so
    start_early(config)
    _adopt_when_ready(shell, session)


def _adopt_when_ready(shell: InteractiveShell, session: Session) -> None:
    """Give the ranks to the session as soon as they are there, between two cells.

    A cell that needs them before waits for them by itself: see `early_start.start_group`.
    """

    def adopt(*_: Any) -> None:
        if session.group is None and (group := ready()) is not None:
            session.group = group
        if session.group is not None:
            shell.events.unregister("pre_run_cell", adopt)

    shell.events.register("pre_run_cell", adopt)


def _at_next_cell(shell: InteractiveShell, action: Callable[[], None]) -> None:
    def once(*_: Any) -> None:
        shell.events.unregister("pre_run_cell", once)
        action()

    shell.events.register("pre_run_cell", once)


if __name__ == "__main__":
    main()
