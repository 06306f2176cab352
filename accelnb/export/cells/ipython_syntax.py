"""A cell's text as Python: what IPython adds to the language is translated, or left out."""

from __future__ import annotations

import argparse
import ast
import functools
import json
import re
import shlex
import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from accelnb.export.cells.notebook_file import Cell, ExportError
from accelnb.options.config import CellOptions, ConfigError, LaunchConfig, from_mapping, options
from accelnb.options.magic_line import split_options, without_comment

# Cell magics whose body is an ordinary cell.
_AROUND = ("time", "capture", "prun", "local")
_CELL_MAGIC = re.compile(r"%%(?P<name>\w+)[ \t]*(?P<line>.*)")
_LINE_JOB = re.compile(r"%distributed[ \t]+(?P<rest>[^?\n]+)")
_PIP = re.compile(
    r"(?P<indent>\s*)[!%]+\s*(?:python3?\s+-m\s+|uv\s+)?(?:pip3?|conda|mamba)\s+install\s+(?P<rest>.*)"
)
_TIMED = re.compile(r"(?P<indent>\s*)%time\s+(?P<rest>\S.*)")
_ENVIRONMENT = re.compile(
    r"(?P<indent>\s*)%(?:set_)?env\s+(?P<name>\w+)(?:\s*=\s*|\s+)(?P<value>\S.*)"
)
_FOLDER = re.compile(r"(?P<indent>\s*)%cd\s+(?:-q\s+)?(?P<folder>[^\s-].*)")
_VARIABLE = re.compile(r"\$(?P<name>[^\W\d]\w*)")
_VALUE_OF_PIP = ("-r", "--requirement", "-c", "--constraint", "-n", "--name", "--channel")
_INDEX_OF_PIP = ("-i", "--index-url", "--extra-index-url", "-f", "--find-links")


@dataclass
class CellCode:
    """A cell as Python, with the same line numbers.

    Attributes
    ----------
    options : dict or None
        Of the ``%%distributed`` line; None for an ordinary cell.
    skipped : str
        Why nothing of the cell can be in a script; empty if it can.
    """

    cell: Cell
    code: str
    tree: ast.Module
    options: dict[str, Any] | None = None
    skipped: str = ""
    requirements: list[str] = field(default_factory=list)
    imports: set[str] = field(default_factory=set)  # that the translation needs


def read_cell(cell: Cell, bound: Collection[str] = ()) -> CellCode:
    """Translate a cell.

    Parameters
    ----------
    bound
        The notebook's names; IPython leaves a ``$NAME`` that is none of them as it is.

    Raises
    ------
    ExportError
        It is not Python, or its magic line is wrong.
    """
    body = cell.source.lstrip("\n")
    above = len(cell.source) - len(body)  # empty lines, which count
    given: dict[str, Any] | None = None
    while magic := _CELL_MAGIC.match(body):
        name, line = magic["name"], magic["line"].strip()
        above, body = above + 1, body[magic.end() + 1 :]
        if name == "distributed" and not line.startswith("?"):  # `?` asks for its help
            given = read_options(cell, line, above)
        elif name not in _AROUND or line.startswith("?"):
            shown = f"%%{name} {line}".rstrip()
            return CellCode(cell, "", ast.Module([], []), skipped=shown)
    if found := _LINE_JOB.fullmatch(body.rstrip()):
        line, expression = split_options(found["rest"])
        line_options = read_options(cell, line, above + 1)
        brings = {"out", "pull"} & line_options.keys()
        if brings or "(" in without_comment(expression):  # else it only looks
            given, body = line_options, expression
    found = CellCode(cell, "", ast.Module([], []), options=given)
    lines = [_translated(line, found, bound) for line in body.split("\n")]
    found.code = "\n" * above + _without_ipython("\n".join(lines))
    found.tree = _parsed(cell, found.code)
    return found


def read_options(cell: Cell, line: str, number: int = 1) -> dict[str, Any]:
    """Read the options of a ``%%distributed`` line, checked."""
    try:
        words = shlex.split(without_comment(line))
        given = vars(_parser().parse_args(words))
        for name in [n for n, value in given.items() if set("${") & set(str(value))]:
            if name != "procs":  # the script has as many processes as it is started with
                raise ConfigError(f"{name}={given[name]}: write the value itself for a script")
            del given[name]
        checked: Mapping[str, Any] = {
            **vars(from_mapping(LaunchConfig, given)),
            **vars(from_mapping(CellOptions, given)),
        }
    except (ConfigError, ValueError) as error:
        raise ExportError(f"{cell.place(number)}: %%distributed: {error}") from None
    return {name: checked[name] for name in given}


@functools.cache
def _parser() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False)
    for option in options(LaunchConfig, CellOptions):
        action = "store_true" if option.is_switch else "store"
        parser.add_argument(
            *option.flags, dest=option.name, action=action, default=argparse.SUPPRESS
        )
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _translated(line: str, code: CellCode, bound: Collection[str]) -> str:
    """Return a line in Python if it is one of IPython's that has a plain meaning in a script."""
    if found := _PIP.fullmatch(line):
        code.requirements += _requirements(found["rest"])
        return f"{found['indent']}pass" if found["indent"] else ""
    if found := _TIMED.fullmatch(line):
        return found["indent"] + found["rest"]
    if found := _ENVIRONMENT.fullmatch(line):
        code.imports.add("os")
        value = _quoted(found["value"], bound)
        return f"{found['indent']}os.environ[{json.dumps(found['name'])}] = {value}"
    if found := _FOLDER.fullmatch(line):
        code.imports.add("os")
        folder = _quoted(found["folder"].strip().strip("\"'"), bound)
        if found["folder"].startswith("~"):
            folder = f"os.path.expanduser({folder})"
        return f"{found['indent']}os.chdir({folder})"
    return line


def _quoted(text: str, bound: Collection[str]) -> str:
    """Return a magic's text as Python: it may read variables, as ``{name}`` or ``$name``.

    IPython leaves all of the text as it is if a part of it cannot be evaluated.
    """
    text = text.strip()
    filled = _VARIABLE.sub(r"{\g<name>}", text)
    is_bound = all(found["name"] in bound for found in _VARIABLE.finditer(text))
    if is_bound and "{" in filled and _reads_variables(filled):
        return "f" + json.dumps(filled, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False)


def _reads_variables(text: str) -> bool:
    """Return whether each ``{field}`` of a text reads a variable, unlike those of JSON."""
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(text) if field is not None]
        trees = [ast.parse(field.strip(), mode="eval") for field in fields]
    except (SyntaxError, ValueError):
        return False
    return all(any(isinstance(node, ast.Name) for node in ast.walk(tree)) for tree in trees)


def _requirements(text: str) -> list[str]:
    words = shlex.split(text.partition(" #")[0], comments=False)
    found: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if before in _INDEX_OF_PIP or before in ("-r", "--requirement"):
            found.append(f"{before} {word}")
        elif not word.startswith("-") and before not in _VALUE_OF_PIP:
            found.append(word)
    return found


def _without_ipython(code: str) -> str:
    """Return the code with magics and shell commands as calls of ``get_ipython()``."""
    from IPython.core.inputtransformer2 import TransformerManager

    stripped = code.lstrip("\n")  # IPython takes empty lines away, and they count
    return "\n" * (len(code) - len(stripped)) + TransformerManager().transform_cell(stripped)


def _parsed(cell: Cell, code: str) -> ast.Module:
    try:
        tree = ast.parse(code)
        compile(code, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        said = getattr(error, "msg", str(error))
        raise ExportError(f"{cell.place(line)}: {said}; correct the cell") from None
    return tree
