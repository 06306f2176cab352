"""What an expression's value may be, or be a part of: the names it comes from."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from accelnb.export.analysis.imported_names import Imported
from accelnb.export.analysis.known_names import NEW_BY_BUILTINS, NEW_BY_METHODS
from accelnb.export.cells.syntax import arguments_of

GIVEN = "(given)"  # stands for what a function is given
_NEW = (ast.Constant, ast.Compare, ast.JoinedStr)


def roots(
    node: ast.AST | None,
    returned: Mapping[str, frozenset[str]],
    imported: Imported | None = None,
) -> set[str]:
    """Return the names whose values the value of an expression may be, or share a part with.

    Parameters
    ----------
    returned
        For functions of the notebook, the names whose values they may return.
    imported
        What the notebook imports: ``nn.Linear(2, 2)`` is no part of ``nn``.

    Examples
    --------
    >>> import ast
    >>> from accelnb.export.analysis.value_sources import roots
    >>> sorted(roots(ast.parse("[a.b, f(c)[0], len(d)]", mode="eval").body, {}))
    ['a', 'c']
    """
    if node is None or isinstance(node, _NEW):
        return set()
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, ast.Subscript):
        return roots(node.value, returned, imported)
    if isinstance(node, ast.Lambda):
        return {part.id for part in ast.walk(node.body) if isinstance(part, ast.Name)}
    if isinstance(node, ast.Call):
        return _of_call(node, returned, imported)
    parts = [roots(child, returned, imported) for child in ast.iter_child_nodes(node)]
    return set().union(*parts)


def _of_call(
    call: ast.Call, returned: Mapping[str, frozenset[str]], imported: Imported | None
) -> set[str]:
    function = call.func
    given = [roots(value, returned, imported) for value in arguments_of(call)]
    if isinstance(function, ast.Name):
        if function.id in NEW_BY_BUILTINS:
            return set()
        if function.id in ("globals", "locals"):
            return {function.id}
        own = returned.get(function.id, frozenset({GIVEN}))
        return set(own - {GIVEN}).union(*(given if GIVEN in own else ()))
    name = function.attr if isinstance(function, ast.Attribute) else ""
    if name in NEW_BY_METHODS:
        return set()
    of = function.value if isinstance(function, ast.Attribute) else function
    own = set() if imported and imported.is_makers(function) else roots(of, returned, imported)
    return own.union(*given, returned.get(f".{name}", frozenset()) - {GIVEN})


def names_in_annotation(annotation: ast.expr) -> set[str]:
    """Return the names that an annotation reads, also one that is a text."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            annotation = ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            return set()
    return {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}


def thrown_away(node: ast.AST) -> list[ast.Call]:
    """Return the calls whose value a node throws away."""
    if isinstance(node, ast.Expr):
        return _calls_of(node.value)
    if isinstance(node, ast.withitem):
        return _calls_of(node.context_expr)
    if isinstance(node, ast.Assign) and all(
        getattr(target, "id", "") == "_" for target in node.targets
    ):
        return _calls_of(node.value)
    return []


def _calls_of(value: ast.expr) -> list[ast.Call]:
    if isinstance(value, ast.Call):
        return [value]
    if isinstance(value, ast.Await):
        return _calls_of(value.value)
    parts: list[ast.expr] = []
    if isinstance(value, ast.ListComp | ast.SetComp):
        parts = [value.elt]
    elif isinstance(value, ast.BoolOp):
        parts = value.values
    elif isinstance(value, ast.IfExp):
        parts = [value.body, value.orelse]
    elif isinstance(value, ast.Tuple | ast.List):
        parts = value.elts
    return [call for part in parts for call in _calls_of(part)]
