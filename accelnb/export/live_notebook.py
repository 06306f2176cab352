"""Export from the live notebook: its file says how it is laid out, its kernel what ran."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelnb.export.cells.ipython_syntax import read_cell
from accelnb.export.cells.notebook_file import Cell, ExportError, Notebook, read_notebook
from accelnb.export.notebook_to_script import Exported, export_notebook
from accelnb.jupyter.cell_names import analyse

if TYPE_CHECKING:
    from accelnb.options.config import LaunchConfig


def live(
    shell: Any,
    output: str | os.PathLike[str] = "train.py",
    *,
    launchers: Sequence[str] = (),
    force: bool = False,
    base: LaunchConfig | None = None,
) -> Exported:
    """Write the script of the notebook that a shell runs.

    The notebook's saved file gives its cells, with headings and tags; which of them ran, and in
    which order, is what the kernel remembers. Without a file, as in a console, the cells are
    those that the kernel remembers.

    Parameters
    ----------
    shell
        The notebook's IPython shell.
    output
        The script's file; a relative path is taken from the working directory.
    launchers, force
        As of `export_notebook`.
    base
        The options of cells that give none.

    Raises
    ------
    ExportError
        As of `export_notebook`. Also for a name that exists only in the live kernel, because its
        cell was edited or deleted, and for a file that is older than the cells that ran.
    """
    ran = _inputs(shell)
    file = notebook_file(shell)
    if file is None:
        return export_notebook(_of_inputs(ran), output, launchers=launchers, force=force, base=base)
    saved = read_notebook(file)
    notebook = _as_it_ran_here(saved, ran)
    here = {_plain(cell.source) for cell in saved.code}
    gone = {number: text for number, text in ran.items() if _plain(text) not in here}
    jobs = [number for number, text in ran.items() if text.lstrip().startswith("%%distributed")]
    if jobs and jobs[-1] in gone:
        raise ExportError(
            f"the distributed cell In [{jobs[-1]}] is not in {file.name} as it ran: save the "
            "notebook, and run the cell again if you changed it"
        )
    elsewhere = _names_of(gone, shell.user_ns)
    return export_notebook(
        notebook, output, launchers=launchers, force=force, base=base, elsewhere=elsewhere
    )


def notebook_file(shell: Any) -> Path | None:
    """Return the file of the notebook that a shell runs, if the front end says which it is."""
    named = shell.user_ns.get("__vsc_ipynb_file__") or os.environ.get("JPY_SESSION_NAME")
    if not named:
        return None
    started = Path(getattr(shell, "starting_dir", "."))
    for path in (Path(named), started / named, started / Path(named).name):
        if path.suffix == ".ipynb" and path.is_absolute() and path.is_file():
            return path
    return None


def _inputs(shell: Any) -> dict[int, str]:
    """Return what was run, by its number, without the cell that runs now."""
    inputs = enumerate(shell.history_manager.input_hist_raw)
    return {
        number: text for number, text in inputs if text.strip() and number != shell.execution_count
    }


def _as_it_ran_here(notebook: Notebook, ran: dict[int, str]) -> Notebook:
    """Give each cell the number under which this kernel ran it last, as it stands now."""
    numbers = {_plain(text): number for number, text in ran.items()}
    cells = tuple(
        dataclasses.replace(cell, count=numbers.get(_plain(cell.source)) if cell.is_code else None)
        for cell in notebook.cells
    )
    return Notebook(notebook.name, cells)


def _of_inputs(ran: dict[int, str]) -> Notebook:
    """Make a notebook of what was run; of a text that ran several times, the last."""
    last = {_plain(text): number for number, text in ran.items()}
    cells: list[Cell] = []
    for number in sorted(last.values()):
        cell = Cell(len(cells) + 1, True, ran[number], count=number)
        with contextlib.suppress(ExportError):  # it was not Python, so it did not run
            read_cell(cell)
            cells.append(cell)
    return Notebook("a notebook", tuple(cells))


def _names_of(gone: dict[int, str], variables: dict[str, Any]) -> dict[str, str]:
    """Say of each name where it comes from, if that is not a cell any more."""
    found = {}
    for number, text in gone.items():
        with contextlib.suppress(ExportError):
            code = read_cell(Cell(0, True, text, count=number))
            for name in analyse(code.code).bound & variables.keys():
                found[name] = (
                    f"exists only in the live kernel: In [{number}] bound it, and that cell was "
                    "edited or deleted since: put it back, or run the cell as it is now"
                )
    return found


def _plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().split("\n"))
