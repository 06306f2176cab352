"""`%%local`, and the mode in which every other cell runs on all ranks."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from types import FrameType

from IPython.core.interactiveshell import InteractiveShell

from accelnb.notebook.cell import read_cell
from accelnb.notebook.session import Session
from accelnb.options.config import ConfigError
from accelnb.options.magic_line import without_comment

_RUN = "auto_distributed"  # the magic that such a cell becomes

# Those that do something to the cell's code. What other magics do is for the notebook.
_CELL_MAGICS_OF_RANKS = {"capture", "prun", "time", "timeit"}
_LINE_MAGICS_OF_RANKS = {"prun", "run", "time", "timeit", "who", "who_ls", "whos"}

_MAGIC = re.compile(r"(?P<sign>%%?)(?P<name>\w+)")
_LOCAL = re.compile(r"%%local\s*(?:#.*)?$")
_HELP = re.compile(r"\?{1,2}\s*%{0,2}[\w.*]+;?|%{0,2}[\w.*]+\?{1,2};?")
_INSTALL = re.compile(r"[%!]?\s*(?:\S*python[\d.]*\s+-m\s+|uv\s+)?(?:pip|conda|mamba)\s+\w")


def notebook_lines(lines: Sequence[str]) -> int:
    """Return how many lines at the top of a cell are the notebook's own in this mode.

    These are `%pip`, `%load_ext`, `%accelnb` and other magics, a shell's ``pip`` and help with
    ``?``. All lines of a cell that has nothing for the ranks.

    Parameters
    ----------
    lines
        The cell as the user wrote it.

    Examples
    --------
    >>> from accelnb.notebook.auto_mode import notebook_lines
    >>> notebook_lines(["%pip install tqdm", "import tqdm"])
    1
    >>> notebook_lines(["%%time", "train()"]), notebook_lines(["%%html", "<b>done</b>"])
    (0, 2)
    """
    first = _MAGIC.match(lines[0]) if lines else None
    if first is not None and first["sign"] == "%%" and not _HELP.fullmatch(lines[0].strip()):
        return 0 if first["name"] in _CELL_MAGICS_OF_RANKS else len(lines)
    own = at = 0
    while at < len(lines):
        line = lines[at].strip()
        at += 1
        if not line or line.startswith("#"):
            continue
        if not _is_for_notebook(line):
            return own
        while lines[at - 1].rstrip().endswith("\\") and at < len(lines):
            at += 1
        own = at
    return len(lines)


def _is_for_notebook(line: str) -> bool:
    magic = _MAGIC.match(line)
    if magic is not None and magic["name"] not in _LINE_MAGICS_OF_RANKS:
        return True
    return bool(_HELP.fullmatch(line) or _INSTALL.match(line))


class AutoCells:
    """Sends every cell to the ranks while it is on; `%%local` cells stay in the notebook.

    Called by IPython with the lines of each cell (`input_transformers_cleanup`).
    """

    has_side_effects = True  # IPython does not ask it whether a cell is complete

    def __init__(self, shell: InteractiveShell, session: Session) -> None:
        self.on = False
        self._shell = shell
        self._session = session

    def install(self) -> None:
        self._shell.input_transformers_cleanup.append(self)
        self._shell.register_magic_function(self._run, "cell", _RUN)  # type: ignore[arg-type]
        self._shell.register_magic_function(self._local, "cell", "local")  # type: ignore[arg-type]

    def remove(self) -> None:
        if self in self._shell.input_transformers_cleanup:
            self._shell.input_transformers_cleanup.remove(self)
        for name in (_RUN, "local"):
            self._shell.magics_manager.magics["cell"].pop(name, None)

    def __call__(self, lines: list[str]) -> list[str]:
        if lines and _LOCAL.match(lines[0]):
            # An empty line in its place keeps the line numbers; a magic must come first.
            return lines[1:] if lines[1:2] and lines[1].startswith("%%") else ["\n", *lines[1:]]
        if not self.on or _is_within_cell() or self._asked_by_program():
            return lines
        own = notebook_lines(lines)
        if own == len(lines):
            return lines
        return [
            *lines[:own],
            f"get_ipython().run_cell_magic({_RUN!r}, '{own}', {''.join(lines)!r})\n",
        ]

    def code_at(self, text: str) -> int | None:
        """Return where the code for the ranks begins in a cell, None if it is not for them."""
        lines = text.splitlines(keepends=True)
        if not self.on or (lines and _LOCAL.match(lines[0])):
            return None
        own = notebook_lines(lines)
        return None if own == len(lines) else sum(map(len, lines[:own]))

    def _run(self, line: str, cell: str) -> None:
        """Run a cell on every rank; what `%accelnb auto on` makes of a cell."""
        lines = cell.splitlines(keepends=True)
        above, body = "".join(lines[: int(line)]), "".join(lines[int(line) :])
        self._session.run_cell(read_cell(self._shell, above, body), {})

    def _local(self, line: str, cell: str) -> None:
        """Run a cell in the notebook, also in a kernel where cells run on the ranks by default.

        Without the extension's automatic mode (`%accelnb auto on`) that is what any cell does.
        """
        if line := without_comment(line).strip():
            raise ConfigError(f"%%local takes no options, so not {line}")
        self._shell.run_cell(cell)

    def _asked_by_program(self) -> bool:
        """Tell whether a front end runs code of its own, such as a viewer of variables."""
        get_parent = getattr(self._shell, "get_parent", None)
        content = (get_parent() or {}).get("content", {}) if get_parent is not None else {}
        return bool(content.get("silent")) or not content.get("store_history", True)


def switch(shell: InteractiveShell, on: bool) -> None:
    """Let every cell of a notebook run on all ranks, or no longer so.

    Raises
    ------
    ConfigError
        The extension is not loaded.
    """
    for transformer in shell.input_transformers_cleanup:
        if isinstance(transformer, AutoCells):
            transformer.on = on
            return
    raise ConfigError("run %load_ext accelnb first")


def _is_within_cell() -> bool:
    """Tell whether a cell runs now: what it transforms is not a cell of the notebook."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is InteractiveShell.run_code.__code__:
            return True
        frame = frame.f_back
    return False
