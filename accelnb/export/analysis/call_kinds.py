"""Which statements of ordinary cells only look at things, and which do something."""

from __future__ import annotations

import ast
import sys

from accelnb.export.analysis.imported_names import Imported
from accelnb.export.analysis.known_names import (
    DRAWING_NUMBERS,
    DRAWING_NUMBERS_CALLS,
    DRAWING_WORDS,
    FILE_MODULES,
    LOOKING,
    OF_CONTAINERS,
    SAVING,
    SETTING,
    SETTING_CALLS,
    WRITING,
)
from accelnb.export.cells.statements import Statement
from accelnb.export.cells.syntax import BUILTINS, base_name, calls_in, dotted, executed, last_part


def only_looks(call: ast.Call, imported: Imported) -> bool:
    """Return whether a call shows or measures, and changes nothing."""
    name = last_part(call)
    if isinstance(call.func, ast.Name) and name in BUILTINS:
        return name not in ("setattr", "delattr", "exec", "next")
    is_own = isinstance(call.func, ast.Name) and name not in imported
    if (name in LOOKING and not is_own) or name.lower().startswith(DRAWING_WORDS):
        return True
    return imported.is_drawing(base_name(call.func))


def is_report(statement: Statement) -> bool:
    """Return whether it prints, or saves what was computed."""
    node = statement.node
    if isinstance(node, ast.With | ast.For | ast.If):
        return any(is_write(call) or _is_print(call) for call in calls_in(node))
    return says_or_saves(node)


def says_or_saves(node: ast.stmt) -> bool:
    """Return whether all that a statement does is print or save something."""
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return False
    return _is_print(node.value) or last_part(node.value) in SAVING


def _is_print(call: ast.Call) -> bool:
    return dotted(call.func) in ("print", "pprint", "pprint.pprint")


def draws(statement: Statement, imported: Imported) -> bool:
    """Return whether it makes a picture."""
    names = {node.id for node in ast.walk(statement.node) if isinstance(node, ast.Name)}
    return any(map(imported.is_drawing, names))


def draws_numbers(call: ast.Call, imported: Imported) -> bool:
    """Return whether a call may draw random numbers that the whole process shares."""
    name = last_part(call)
    if any(keyword.arg in ("generator", "random_state") for keyword in call.keywords):
        return False
    path = imported.path(call.func)
    if path.startswith("torch.nn.") and name[:1].isupper():
        return True  # a layer
    if name == "iter":  # of a loader
        return True
    return name.startswith(DRAWING_NUMBERS) or name in DRAWING_NUMBERS_CALLS


def is_setting(call: ast.Call, imported: Imported) -> bool:
    """Return whether a call seeds or sets something for the whole process."""
    name = last_part(call)
    path = imported.path(call.func)
    if not path or imported.is_drawing(base_name(call.func)):
        return False
    return name.startswith(SETTING) or name in SETTING_CALLS or path.startswith("sys.path.")


def is_write(call: ast.Call) -> bool:
    """Return whether a call changes files."""
    if dotted(call.func) == "open":
        given = [*call.args[1:2], *(k.value for k in call.keywords if k.arg == "mode")]
        modes = [mode.value for mode in given if isinstance(mode, ast.Constant)]
        return any(set(str(mode)) & set("wax+") for mode in modes)
    name = last_part(call)
    if name not in WRITING or not isinstance(call.func, ast.Attribute):
        return name in SAVING
    ambiguous = name in ("copy", "remove", "replace", "update")
    return not ambiguous or base_name(call.func) in FILE_MODULES


def computes(statement: Statement, imported: Imported) -> bool:
    """Return whether it may compute with torch, or draw its random numbers."""
    decorators = getattr(statement.node, "decorator_list", ())
    for node in executed([statement.node]):
        if not isinstance(node, ast.Call) or node in decorators:
            continue
        if dotted(node.func) in BUILTINS or last_part(node) in OF_CONTAINERS:
            continue
        home = imported.path(ast.Name(base_name(node.func))).partition(".")[0]
        if home not in sys.stdlib_module_names or isinstance(node.func, ast.Call):
            return True
    return False
