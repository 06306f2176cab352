"""Which statements of a script define things, and which are the job that it does."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Sequence

from accelnb.export.cells.notebook_file import Cell
from accelnb.export.cells.statements import Statement, cut, span_of
from accelnb.export.cells.syntax import (
    DEFINITIONS,
    IMPORTS,
    SCOPES,
    arguments_of,
    calls_in,
    dotted,
    is_literal,
)
from accelnb.export.from_script.argparse_options import reads_options
from accelnb.export.script_text.source_text import dedented

_EXITS = ("sys.exit", "exit", "SystemExit")


def defining(statements: Sequence[Statement]) -> list[Statement]:
    """Return the statements for ordinary cells: they define, and need nothing that a job makes."""
    found: list[Statement] = []
    of_job: set[str] = set()
    for statement in statements:
        names = statement.names
        others = [s for s in statements if s is not statement and s.names.bound & names.bound]
        is_value = isinstance(statement.node, ast.Assign | ast.AnnAssign)
        if _only_defines(statement.node) and not ((is_value and others) or names.at_once & of_job):
            found.append(statement)
        else:
            of_job |= names.bound
    return found


def job_of(
    statements: Sequence[Statement], ordinary: Sequence[Statement], source: str, readers: set[str]
) -> tuple[ast.FunctionDef | None, list[Statement]]:
    """Return the main function, if its body can be a cell, and what else the script runs."""
    guard = next((s for s in statements if _is_guard(s.node)), None)
    runs = [s for s in statements if not (s in ordinary or s is guard)]
    inside = _block(guard.node.body, source) if guard and isinstance(guard.node, ast.If) else []
    job = [_without_exit(statement) for statement in (*runs, *inside)]
    functions = [s.node for s in ordinary if isinstance(s.node, ast.FunctionDef)]
    arguments = {
        target_of(s.node)
        for s in job
        if isinstance(s.node, ast.Assign) and reads_options(s.node.value, readers)
    }
    for statement in job:
        for function in functions:
            if calls(statement.node, function) and _can_be_cell(function):
                given = arguments_of(statement.node.value)  # type: ignore[attr-defined]
                options = [v for v in given if reads_options(v, readers) or dotted(v) in arguments]
                if len(options) == len(given) == len(function.args.args):
                    return function, job
    return None, job


def _without_exit(statement: Statement) -> Statement:
    """Return ``main()`` for ``sys.exit(main())`` or ``raise SystemExit(main())``."""
    node = statement.node
    value = node.exc if isinstance(node, ast.Raise) else getattr(node, "value", None)
    if not (isinstance(value, ast.Call) and dotted(value.func) in _EXITS and len(value.args) == 1):
        return statement
    inner = value.args[0]
    alone = ast.copy_location(ast.Expr(inner), inner)
    return dataclasses.replace(statement, node=alone, span=span_of(statement.code, inner))


def read_notebook_options(statement: Statement, readers: set[str], instead: str) -> None:
    """Have the options that the notebook gives where a statement reads the command line."""
    for call in calls_in(statement.node):
        if reads_options(call, readers):
            is_pair = dotted(call.func).endswith(".parse_known_args")
            statement.replace(call, f"({instead}, [])" if is_pair else instead)


def _is_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def _only_defines(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        return is_literal(node.value)
    return isinstance(node, (*IMPORTS, *DEFINITIONS))


def calls(node: ast.stmt, function: ast.FunctionDef | None) -> bool:
    """Return whether a statement is a call of the function, and nothing else."""
    value = getattr(node, "value", None)
    return (
        function is not None
        and isinstance(node, ast.Expr)
        and isinstance(value, ast.Call)
        and dotted(value.func) == function.name
    )


def _can_be_cell(function: ast.FunctionDef) -> bool:
    """Return whether the function's body means the same in a cell."""
    others = (*function.args.posonlyargs, *function.args.kwonlyargs, function.args.vararg)
    if len(function.args.args) > 1 or any(others) or function.decorator_list:
        return False
    inner = [
        node
        for node in ast.walk(function)
        if isinstance(node, ast.Return | ast.Yield | ast.YieldFrom)
        and node is not function.body[-1]
    ]
    nested = [n for n in ast.walk(function) if n is not function and isinstance(n, SCOPES)]
    in_nested = {id(n) for scope in nested for n in ast.walk(scope)}
    return all(id(node) in in_nested for node in inner)


def statements_of(function: ast.FunctionDef, source: str) -> list[Statement]:
    """Return the body of a main function; what it returns is the last one's value."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    returned = body[-1] if body and isinstance(body[-1], ast.Return) else None
    found = _block(body[:-1] if returned else body, source)
    if returned and returned.value and not isinstance(returned.value, ast.Constant):
        value = ast.get_source_segment(source, returned.value) or ""
        text = f"({value})" if "\n" in value else value
        found += cut(Cell(1, True, text), text, ast.parse(text))
    return [s for s in found if not isinstance(s.node, ast.Global | ast.Pass)]


def _block(body: Sequence[ast.stmt], source: str) -> list[Statement]:
    """Return the statements of an indented block, as if it stood at the top."""
    if not body:
        return []
    last = body[-1].end_lineno
    first = body[0].lineno
    lines = source.split("\n")
    while first > 1 and lines[first - 2].lstrip().startswith("#"):
        first -= 1
    text = dedented("\n".join(lines[first - 1 : last]))
    return list(cut(Cell(1, True, text), text, ast.parse(text)))


def target_of(assignment: ast.Assign) -> str:
    """Return the name that an assignment binds, of several the first."""
    target = assignment.targets[0]
    return dotted(target.elts[0] if isinstance(target, ast.Tuple) else target)
