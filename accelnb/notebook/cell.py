"""One `%%distributed` cell on its way from the notebook to the ranks and back."""

from __future__ import annotations

import ast
import dataclasses
import linecache
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.path import get_py_filename

from accelnb.errors import AccelnbError
from accelnb.jupyter.cell_names import CellNames, analyse
from accelnb.notebook.cell_history import cells_so_far, future_of

_TAKES_VALUE = "lNm"  # of the letters of %run's options


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
        if of_scripts := _names_of_scripts(shell, code):
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


def empty_cell(names: Iterable[str] = ()) -> Cell:
    """Return a cell that does nothing: the names that it is sent are all it is for."""
    return Cell("", "", "<accelnb>", 0, CellNames(needed=frozenset(names)))


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


def _names_of_scripts(shell: InteractiveShell, code: str) -> frozenset[str]:
    """Return the names of the notebook that scripts of a transformed cell need, as far as known.

    A script that cannot be read says so where it is run.
    """
    if "'run'" not in code:
        return frozenset()
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "run_line_magic":
            match node.args:
                case [ast.Constant("run"), ast.Constant(str(line))]:
                    names |= _names_of_script(shell, line)
    return frozenset(names)


def _names_of_script(shell: InteractiveShell, line: str) -> frozenset[str]:
    try:
        letters, file = _options_and_file(shlex.split(line))
        if "i" not in letters or "m" in letters or not file:
            return frozenset()
        text = Path(get_py_filename(file)).read_text(encoding="utf-8")
        code = shell.transform_cell(text) if file.endswith((".ipy", ".ipynb")) else text
        return analyse(code).needed
    except (OSError, SyntaxError, ValueError):
        return frozenset()


def _options_and_file(words: list[str]) -> tuple[str, str]:
    """Return the letters of %run's options, and the file behind them."""
    letters = ""
    words = list(words)
    while words and words[0].startswith("-") and len(words[0]) > 1:
        word = words.pop(0)[1:]
        letters += word
        if word[-1] in _TAKES_VALUE and words:
            words.pop(0)
    return letters, words[0] if words else ""
