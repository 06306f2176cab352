"""The command-line options of a script, as values of a notebook's `parameters` cell."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from accelnb.export.cells.notebook_file import ExportError
from accelnb.export.cells.syntax import calls_in, dotted, last_part

_PARSERS = ("argparse.ArgumentParser", "ArgumentParser")
_DECLARING = ("ArgumentParser", "add_argument", "add_argument_group")


@dataclass(frozen=True)
class Option:
    """One option: its name in the code, its default as text, and what it is."""

    name: str
    default: str
    about: str = ""

    def line(self) -> str:
        """Return the line of a `parameters` cell.

        Examples
        --------
        >>> from accelnb.export.from_script.argparse_options import Option
        >>> Option("lr", "1e-3", "learning rate").line()
        'lr = 1e-3  # learning rate'
        """
        return f"{self.name} = {self.default}" + (f"  # {self.about}" if self.about else "")


def options_of(nodes: Iterable[ast.AST], source: str) -> list[Option]:
    """Return the options that calls of ``add_argument`` in the code declare."""
    calls = [c for node in nodes for c in calls_in(node) if last_part(c) == "add_argument"]
    return [_option(call, source) for call in sorted(calls, key=lambda call: call.lineno)]


def declares_options(node: ast.AST) -> bool:
    """Return whether a statement is about the command line alone: a parser, or its options."""
    if isinstance(node, ast.FunctionDef):
        makes = any(dotted(call.func) in _PARSERS for call in calls_in(node))
        returns = [part.value for part in ast.walk(node) if isinstance(part, ast.Return)]
        return makes and any(map(_reads_command_line, returns))
    value = getattr(node, "value", None)
    if not isinstance(node, ast.Assign | ast.Expr) or not isinstance(value, ast.Call):
        return False
    return dotted(value.func).rpartition(".")[2] in _DECLARING or _reads_command_line(value)


def reads_options(node: ast.AST, functions: set[str]) -> bool:
    """Return whether a value is what the command line says."""
    return _reads_command_line(node) or (
        isinstance(node, ast.Call) and dotted(node.func) in functions
    )


def _reads_command_line(node: ast.AST | None) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("parse_args", "parse_known_args")
    )


def _option(call: ast.Call, source: str) -> Option:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    flags = [flag for flag in map(_constant, call.args) if isinstance(flag, str)]
    if len(flags) != len(call.args) or not flags:
        raise ExportError(f"line {call.lineno}: the option's name is computed: write it as a text")
    about = str(_constant(given.get("help")) or "")
    about = re.sub(r"\s*\(default: %\(default\)s\)|default: %\(default\)s", "", about)
    return Option(_name(flags, given), _default(given, source), about.replace("%%", "%"))


def _name(flags: Sequence[str], given: dict[str | None, ast.expr]) -> str:
    if isinstance(dest := _constant(given.get("dest")), str):
        return dest
    long = next((flag for flag in flags if flag.startswith("--")), flags[0])
    return long.lstrip("-").replace("-", "_")


def _default(given: dict[str | None, ast.expr], source: str) -> str:
    if "default" in given:
        return ast.get_source_segment(source, given["default"]) or "None"
    action = _constant(given.get("action"))
    return {"store_true": "False", "store_false": "True"}.get(str(action), "None")


def _constant(node: ast.expr | None) -> object:
    return node.value if isinstance(node, ast.Constant) else None
