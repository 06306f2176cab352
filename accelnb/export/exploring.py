"""Which statements of ordinary cells only look at things, and which do something."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator

from accelnb.export.statements import IMPORTS, Statement
from accelnb.export.values import BUILTINS, executed
from accelnb.export.words import (
    COMPUTING,
    DRAWING,
    DRAWING_NUMBERS,
    DRAWING_NUMBERS_CALLS,
    DRAWING_WORDS,
    FILE_MODULES,
    LOOKING,
    OF_CONTAINERS,
    READING,
    SAVING,
    SETTING,
    SETTING_CALLS,
    WRITING,
)


def dotted(node: ast.AST) -> str:
    """Return ``a.b.c`` for such an expression, or an empty text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (of := dotted(node.value)):
        return f"{of}.{node.attr}"
    return ""


def base_name(node: ast.AST) -> str:
    """Return the name that an expression such as ``a.b[0].c()`` begins with."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


class Imported:
    """What the names that a notebook imports stand for."""

    def __init__(self, statements: list[Statement], modules: Iterable[str] = ()) -> None:
        self._homes: dict[str, str] = {name: name for name in modules}
        self._modules = set(modules)
        for statement in statements:
            for node in ast.walk(statement.node):
                if isinstance(node, IMPORTS):
                    self._homes.update(_homes(node))
                if isinstance(node, ast.Import):
                    self._modules |= {name for name, _ in _homes(node)}
        self._figures: set[str] = set()
        for statement in statements * 2:  # also what is made of them
            self._figures |= self._drawn_by(statement.node)
        for statement in statements:
            self._figures -= set() if self._drawn_by(statement.node) else statement.names.bound

    def path(self, node: ast.AST) -> str:
        """Return the full path of what an expression names, ``torch.manual_seed`` say."""
        first, dot, rest = dotted(node).partition(".")
        return self._homes[first] + dot + rest if first in self._homes else ""

    def is_makers(self, function: ast.expr) -> bool:
        """Return whether what a function returns is new: it is of a module, or a class.

        Of ``from x import y`` nobody can know whether ``y`` is a module or an object, which
        ``y.get()`` returns a part of.
        """
        if not (path := self.path(function)):
            return False
        first, _, rest = path.partition(".")
        is_class = rest.rpartition(".")[2][:1].isupper()
        is_known = first in COMPUTING or first in sys.stdlib_module_names
        return is_class or is_known or base_name(function) in self._modules

    def is_drawing(self, name: str) -> bool:
        """Return whether a name is of a package that draws, or a figure that such a one made."""
        return name in self._figures or self._homes.get(name, "").partition(".")[0] in DRAWING

    def _drawn_by(self, node: ast.stmt) -> set[str]:
        """Return the names of figures: ``fig, ax = plt.subplots()``."""
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
            return set()
        if not self.is_drawing(base_name(node.value.func)) or last_part(node.value) in READING:
            return set()
        names = {n for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        return {name.id for name in names if isinstance(name.ctx, ast.Store)}

    def __contains__(self, name: str) -> bool:
        return name in self._homes


def _homes(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            yield alias.asname or alias.name, f"{node.module or ''}.{alias.name}"
        elif alias.asname:
            yield alias.asname, alias.name
        else:
            first = alias.name.partition(".")[0]
            yield first, first


def only_looks(call: ast.Call, imported: Imported) -> bool:
    """Return whether a call shows or measures, and changes nothing."""
    name = last_part(call)
    if isinstance(call.func, ast.Name) and name in BUILTINS:
        return name not in ("setattr", "delattr", "exec", "next")
    is_own = isinstance(call.func, ast.Name) and name not in imported
    if (name in LOOKING and not is_own) or name.lower().startswith(DRAWING_WORDS):
        return True
    return imported.is_drawing(base_name(call.func))


def last_part(call: ast.Call) -> str:
    """Return ``c`` for a call ``a.b.c()``."""
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else dotted(function)


def is_report(statement: Statement) -> bool:
    """Return whether it prints, or saves what was computed."""
    node = statement.node
    if isinstance(node, ast.With | ast.For | ast.If):
        return _writes_file(statement) or any(map(_is_print, ast.walk(node)))
    return says_or_saves(node)


def says_or_saves(node: ast.stmt) -> bool:
    """Return whether all that a statement does is print or save something."""
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return False
    return _is_print(node.value) or last_part(node.value) in SAVING


def _is_print(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and dotted(node.func) in ("print", "pprint", "pprint.pprint")


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


def _writes_file(statement: Statement) -> bool:
    return any(is_write(node) for node in ast.walk(statement.node))


def is_write(node: ast.AST) -> bool:
    """Return whether a call changes files."""
    if not isinstance(node, ast.Call):
        return False
    if dotted(node.func) == "open":
        given = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "mode")]
        modes = [mode.value for mode in given if isinstance(mode, ast.Constant)]
        return any(set(str(mode)) & set("wax+") for mode in modes)
    name = last_part(node)
    if name not in WRITING or not isinstance(node.func, ast.Attribute):
        return name in SAVING
    ambiguous = name in ("copy", "remove", "replace", "update")
    return not ambiguous or base_name(node.func) in FILE_MODULES


def computes(statement: Statement, imported: Imported) -> bool:
    """Return whether it may compute with torch, or draw its random numbers."""
    decorators = getattr(statement.node, "decorator_list", ())
    for node in executed([statement.node]):
        if not isinstance(node, ast.Call) or dotted(node.func) in BUILTINS:
            continue
        if node in decorators:
            continue
        if last_part(node) in OF_CONTAINERS:
            continue
        home = imported.path(ast.Name(base_name(node.func))).partition(".")[0]
        if home not in sys.stdlib_module_names or isinstance(node.func, ast.Call):
            return True
    return False
