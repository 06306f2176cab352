"""`export_notebook`: a notebook's file in, a script and the files that launch it out."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelnb.export.cells.notebook_file import Cell, ExportError, Notebook, read_notebook
from accelnb.export.launcher_files import launcher_file
from accelnb.export.output_files import write_files
from accelnb.export.script_text.script import write_script
from accelnb.export.steps.program import Program, read_program
from accelnb.export.steps.rank_conflicts import check_sides
from accelnb.export.steps.selection import NotBound, Selection
from accelnb.options.config import LaunchConfig, from_mapping


@dataclass(frozen=True)
class Exported:
    """What an export made.

    Attributes
    ----------
    script : str
        The text of the script.
    config : LaunchConfig
        How the notebook launches its first job.
    devices : frozenset of str
        The devices that its jobs name.
    notes : tuple of str
        What the user should know: what was left out, and where the notebook is ambiguous.
    files : tuple of Path
        What was written, the script first.
    """

    script: str
    config: LaunchConfig
    notes: tuple[str, ...]
    devices: frozenset[str] = frozenset()
    files: tuple[Path, ...] = ()

    def said(self) -> list[str]:
        """Return what to tell the user, line by line."""
        return [*(f"note: {note}" for note in self.notes), *(f"written: {f}" for f in self.files)]


def export_notebook(
    notebook: str | os.PathLike[str] | Notebook,
    output: str | os.PathLike[str] = "train.py",
    *,
    launchers: Sequence[str] = (),
    force: bool = False,
    elsewhere: Mapping[str, str] | None = None,
    base: LaunchConfig | None = None,
) -> Exported:
    """Write the script of a notebook, and what launches it.

    Parameters
    ----------
    notebook
        The notebook's file, or the notebook read.
    output
        The script's file.
    launchers
        What else to write: ``slurm``, ``ray``, ``config`` (accelnb.yaml), ``accelerate``.
    force
        Replace files that are there.
    elsewhere
        Names that only a live kernel has, and where they come from.
    base
        The options of cells that give none; by default those of accelnb.yaml beside the notebook.

    Raises
    ------
    ExportError
        Something in the notebook cannot be in a script, or the file is there; names the cell and
        the line. Nothing was written.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> from accelnb.export import export_notebook
    >>> folder = Path(tempfile.mkdtemp())
    >>> cell = {"cell_type": "code", "source": "%%distributed\\nprint(rank)"}
    >>> _ = (folder / "a.ipynb").write_text(json.dumps({"cells": [cell]}))
    >>> exported = export_notebook(folder / "a.ipynb", folder / "train.py")
    >>> (folder / "train.py").exists()
    True
    """
    output = Path(output)
    if isinstance(notebook, Notebook):
        read, folder = notebook, output.parent
    else:
        read, folder = read_notebook(notebook), Path(notebook).parent
    if base is None:
        base = _file_beside(folder)
    exported = to_script(read, output.name, elsewhere or {}, base)
    if not isinstance(notebook, Notebook) and output.parent.resolve() != folder.resolve():
        said = f"the notebook's relative paths start at {folder}: start the script there"
        if modules := _modules_beside(exported.script, folder):
            said += f", and keep it beside {', '.join(modules)}, which it imports"
        exported = dataclasses.replace(exported, notes=(*exported.notes, said))
    files = {output: exported.script}
    for name in launchers:
        files |= launcher_file(name, output, exported.config)
    write_files(files, force=force)
    return dataclasses.replace(exported, files=tuple(files))


def _modules_beside(script: str, folder: Path) -> list[str]:
    """Return the files in a folder that a script imports."""
    names = re.findall(r"^ *(?:from|import) +(\w+)", script, re.MULTILINE)
    return sorted({f"{name}.py" for name in names if (folder / f"{name}.py").is_file()})


def to_script(
    notebook: Notebook, file_name: str, elsewhere: Mapping[str, str], base: LaunchConfig
) -> Exported:
    """Return the script of a notebook, without writing it."""
    order = list(notebook.as_it_ran())
    moved: list[str] = []
    first: NotBound | None = None
    while True:
        program = read_program(order, base)
        selection = Selection(program, elsewhere)
        try:
            selection.run()
        except NotBound as error:
            first = first or error
            if not _move_before(order, notebook, error, moved):
                raise _with_cell_not_run(first, notebook) from None
            continue
        check_sides(selection)
        script = write_script(notebook, selection, file_name)
        notes = [*moved, *_notes(program, notebook)]
        devices = frozenset(phase.config.device for phase in program.phases)
        return Exported(script, program.phases[0].config, tuple(notes), devices)


def _move_before(order: list[Cell], notebook: Notebook, error: NotBound, moved: list[str]) -> bool:
    """Put a cell that was run again after its use back to where it stands in the notebook.

    A notebook keeps only the number of a cell's last run. Returns whether there was one to move.
    """
    binder, reader = error.binder, error.reader
    if binder is None or len(moved) > len(order):
        return False
    if notebook.cells.index(binder) > notebook.cells.index(reader):
        return False
    order.remove(binder)
    order.insert(order.index(reader), binder)
    moved.append(f"{binder.place()} ran again after {reader.place()}: the script has it before")
    return True


def _with_cell_not_run(error: NotBound, notebook: Notebook) -> ExportError:
    skipped = notebook.not_run()
    if not skipped or error.binder is not None:
        return error
    places = ", ".join(cell.place() for cell in skipped[:5])
    return ExportError(f"{error}; not run and so left out: {places}")


def _notes(program: Program, notebook: Notebook) -> list[str]:
    notes = list(program.notes)
    if idle := [cell.place() for cell in notebook.not_run()]:
        verb = "is left out: it has" if len(idle) == 1 else "are left out: they have"
        notes.append(f"{', '.join(idle)} {verb} not run as saved")
    procs = {phase.config.procs for phase in program.phases if phase.config.procs}
    if len(procs) > 1:
        shown = " and ".join(map(str, sorted(procs)))
        notes.append(f"cells use {shown} ranks: the script has as many as it is started with")
    return notes


def _file_beside(folder: Path) -> LaunchConfig:
    from accelnb.options.config_file import FILE, read_file

    path = folder / FILE
    return from_mapping(LaunchConfig, read_file(path)) if path.exists() else LaunchConfig()
