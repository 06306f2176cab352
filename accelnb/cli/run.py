"""``accelnb run``: a notebook executed from the terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from accelnb.jupyter.headless import Watcher

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status


@click.command()
@click.argument("notebook", type=click.Path(path_type=Path))
@click.option(
    "-p",
    "--parameter",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="set after the cell tagged parameters; may be given several times",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="write the executed copy here"
)
@click.option("--timeout", type=float, help="stop a cell after this many seconds")
def command(
    notebook: Path, parameters: tuple[str, ...], output: Path | None, timeout: float | None
) -> None:
    """Execute a notebook without a browser, and show each cell's output while it runs.

    The notebook's file is not changed. If a cell fails, its error is shown, the executed copy
    is written all the same, and the exit code is 1.

    \b
    Examples:
      accelnb run train.ipynb
      accelnb run train.ipynb -p lr=1e-3 -p epochs=5 -o run-3.ipynb
    """
    from rich.console import Console

    from accelnb.errors import AccelnbError
    from accelnb.jupyter.headless import CellFailed, WrongParameter, read_parameters, run_notebook

    console = Console()
    code = 0
    try:
        given = read_parameters(parameters)
        with console.status("starting the kernel") as status:
            shown = _Shown(console, status)
            try:
                run_notebook(notebook, output, given, timeout=timeout, watcher=shown)
            finally:
                shown.end()
    except KeyboardInterrupt:
        print("accelnb: stopped by Ctrl-C", file=sys.stderr)
        code = 130
    except AccelnbError as error:
        if isinstance(error, CellFailed):
            _show_traceback(error.traceback)
        print(f"accelnb: {error}", file=sys.stderr)
        code = 2 if isinstance(error, WrongParameter) else 1
    sys.exit(code)


class _Shown(Watcher):
    """Each cell's output as it comes; below it, on a terminal, the cell under way."""

    def __init__(self, console: Console, status: Status) -> None:
        self._console = console
        self._status = status
        self._unfinished = ""  # a line without its end, such as a progress bar

    def on_cell(self, number: int, total: int, source: str) -> None:
        from rich.markup import escape

        self.end()
        lines = [line for line in source.splitlines() if line.strip()] or [""]
        said = f"cell {number}/{total}: {escape(lines[0][:70])}"
        self._status.update(said)
        self._console.print(f"[bold]{said}[/bold]", highlight=False, soft_wrap=True)

    def on_text(self, text: str) -> None:
        *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in lines:
            self._print(line)

    def on_written(self, output: str | os.PathLike[str]) -> None:
        self.end()
        self._console.print(f"written to {output}", highlight=False, markup=False, soft_wrap=True)

    def end(self) -> None:
        """Show what has no line end."""
        if self._unfinished:
            self._print(self._unfinished)
        self._unfinished = ""

    def _print(self, line: str) -> None:
        from rich.text import Text

        shown = line.rstrip("\r").rpartition("\r")[2]  # what a terminal still shows of it
        self._console.print(Text.from_ansi(shown), highlight=False, soft_wrap=True)


def _show_traceback(text: str) -> None:
    from rich.console import Console
    from rich.text import Text

    if text:
        stderr = Console(stderr=True)
        stderr.print(Text.from_ansi(text), highlight=False, soft_wrap=True)
