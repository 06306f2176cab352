"""What the names that a notebook imports stand for."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator

from accelnb.export.analysis.known_names import COMPUTING, DRAWING, READING
from accelnb.export.cells.statements import Statement
from accelnb.export.cells.syntax import IMPORTS, base_name, dotted, last_part


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


def aliases(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield each name that an import binds, as (an import of it alone, the name)."""
    for alias in getattr(node, "names", ()):
        said = alias.name + (f" as {alias.asname}" if alias.asname else "")
        if isinstance(node, ast.ImportFrom):
            text = f"from {'.' * node.level}{node.module or ''} import {said}"
            yield text, alias.asname or alias.name
        else:
            yield f"import {said}", alias.asname or alias.name.partition(".")[0]
