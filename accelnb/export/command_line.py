"""The command-line options of a script, as values of a notebook's `parameters` cell."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from accelnb.export.notebook_file import ExportError
from accelnb.export.syntax import dotted


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
        >>> from accelnb.export.command_line import Option
        >>> Option("lr", "1e-3", "learning rate").line()
        'lr = 1e-3  # learning rate'
        """
        return f"{self.name} = {self.default}" + (f"  # {self.about}" if self.about else "")


def options_of(nodes: Sequence[ast.AST], source: str) -> list[Option]:
    """Return the options that calls of ``add_argument`` in the code declare."""
    calls = [
        node
        for part in nodes
        for node in ast.walk(part)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "add_argument"
    ]
    return list(_options(sorted(calls, key=lambda call: call.lineno), source))


def declares_options(node: ast.AST) -> bool:
    """Return whether a statement is about the command line alone: a parser, or its options."""
    if isinstance(node, ast.FunctionDef):
        names = {dotted(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)}
        returns = [n for n in ast.walk(node) if isinstance(n, ast.Return)]
        reads = [r for r in returns if r.value is not None and _reads_command_line(r.value)]
        return bool(names & {"argparse.ArgumentParser", "ArgumentParser"}) and bool(reads)
    value = getattr(node, "value", None)
    if not isinstance(node, ast.Assign | ast.Expr) or not isinstance(value, ast.Call):
        return False
    last = dotted(value.func).rpartition(".")[2]
    return last in ("ArgumentParser", "add_argument", "add_argument_group") or _reads_command_line(
        value
    )


def reads_options(node: ast.AST, functions: set[str]) -> bool:
    """Return whether a value is what the command line says."""
    return _reads_command_line(node) or (
        isinstance(node, ast.Call) and dotted(node.func) in functions
    )


def _reads_command_line(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("parse_args", "parse_known_args")
    )


def _options(calls: Sequence[ast.Call], source: str) -> Iterator[Option]:
    for call in calls:
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        flags = [
            arg.value
            for arg in call.args
            if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
        ]
        if len(flags) != len(call.args) or not flags:
            raise ExportError(
                f"line {call.lineno}: the option's name is computed: write it as a text"
            )
        name = _name(flags, given)
        about = str(_constant(given.get("help")) or "")
        about = re.sub(r"\s*\(default: %\(default\)s\)|default: %\(default\)s", "", about)
        yield Option(name, _default(given, source), about.replace("%%", "%"))


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
