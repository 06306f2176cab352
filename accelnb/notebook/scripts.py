"""Scripts that a cell runs in its own namespace by `%run -i`: the names that they mention."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.path import get_py_filename

from accelnb.jupyter.cell_names import analyse

_TAKES_VALUE = "lNm"  # of the letters of %run's options


def names_of_scripts(shell: InteractiveShell, code: str) -> frozenset[str]:
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
                    names |= _names_of(shell, line)
    return frozenset(names)


def _names_of(shell: InteractiveShell, line: str) -> frozenset[str]:
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
