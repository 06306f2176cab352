"""One `%%distributed` cell on its way from the notebook to the ranks and back."""

from __future__ import annotations

import dataclasses
import linecache
import sys
from dataclasses import dataclass
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from accelnb.errors import AccelnbError
from accelnb.jupyter.cell_names import FUTURE_FLAGS, CellNames, analyse
from accelnb.notebook.scripts import names_of_scripts


class CellSyntaxError(AccelnbError):
    """The cell is not Python. It was not sent."""

    def __init__(self, error: SyntaxError, rendered: list[str]) -> None:
        super().__init__(str(error))
        self._rendered = rendered

    def _render_traceback_(self) -> list[str]:
        return self._rendered


@dataclass(frozen=True)
class Cell:
    """A cell as the ranks get it.

    `code` has IPython's syntax transformed and the same line numbers as the cell in the
    notebook; `name` is the file name that the notebook compiled the cell under. `future` are the
    compiler flags that the notebook's cells have turned on (``from __future__ import ...``).
    """

    code: str
    source: str
    name: str
    number: int
    names: CellNames
    future: int = 0


def future_of(shell: InteractiveShell) -> int:
    """Return which of `FUTURE_FLAGS` the notebook's cells have turned on."""
    return shell.compile.flags & FUTURE_FLAGS


def read_cell(shell: InteractiveShell, above: str | None, body: str) -> Cell:
    """Transform and check the text of a cell.

    Parameters
    ----------
    above
        The notebook's cell before `body`: the line with ``%%distributed``. None if `body` is
        what follows ``%distributed`` on a line of an ordinary cell.

    Raises
    ------
    CellSyntaxError
        The text is not Python; shown as the notebook shows it for any cell.
    """
    name, number, line = _current_cell(shell)
    future = future_of(shell)
    if above is None:
        source = _with_line(name, line, body)
        code = "\n" * (line - 1) + shell.transform_cell(body)
    else:
        source = above + body
        code = "\n" * (above.count("\n") + _empty_lines(body)) + shell.transform_cell(body)
    try:
        names = analyse(code, future)
        if of_scripts := names_of_scripts(shell, code):
            names = dataclasses.replace(names, perhaps=names.perhaps | of_scripts)
        return Cell(code, source, name, number, names, future)
    except (SyntaxError, ValueError) as error:
        if not isinstance(error, SyntaxError):
            error = SyntaxError(str(error))
        # What Python keeps as the notebook's text of this cell is what IPython made of it.
        error.filename = name if above is not None else "<%distributed>"
        if above is not None:
            linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        if error.lineno and not (error.text or "").strip():  # found when the syntax tree was read
            error.text = code.splitlines()[error.lineno - 1]
        rendered = shell.SyntaxTB.structured_traceback(type(error), error, None)
        raise CellSyntaxError(error, "\n".join(rendered).split("\n")) from None


def empty_cell() -> Cell:
    """Return a cell that does nothing: what it is sent and asked for is all it is for."""
    return Cell("", "", "<accelnb>", 0, CellNames())


def cells_so_far(shell: InteractiveShell) -> dict[str, int]:
    """Return the file name and number of every cell that the notebook has run."""
    return getattr(shell.compile, "_filename_map", {})


def _current_cell(shell: InteractiveShell) -> tuple[str, int, int]:
    """Return the file name, number and line of the notebook's cell that is being run.

    It is found by the frame that runs it.
    """
    cells = cells_so_far(shell)
    frame: Any = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename in cells:
            name = frame.f_code.co_filename
            return name, cells[name], frame.f_lineno
        frame = frame.f_back
    return "<cell>", shell.execution_count, 1


def _empty_lines(body: str) -> int:
    """Return how many lines IPython leaves out at the top of a cell that it transforms."""
    lines = body.splitlines(keepends=True)
    return next((at for at, line in enumerate(lines) if not line.isspace()), 0)


def _with_line(name: str, line: int, text: str) -> str:
    """Return the notebook's cell with `text` in place of its line magic's line."""
    lines = [ln.rstrip("\n") for ln in linecache.getlines(name)] or [""] * line
    lines[line - 1] = text
    return "\n".join(lines) + "\n"
