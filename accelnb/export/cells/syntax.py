"""What a syntax tree says at once: the parts of a node, and what they are called."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator

BUILTINS = frozenset(dir(builtins))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)
SCOPES = (*DEFINITIONS, ast.Lambda)
IMPORTS = (ast.Import, ast.ImportFrom)


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


def last_part(call: ast.Call) -> str:
    """Return ``c`` for a call ``a.b.c()``."""
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else dotted(function)


def is_literal(node: ast.expr) -> bool:
    """Return whether an expression is a value that is written out, such as ``[1, 2]``."""
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError):
        return False
    return True


def calls_in(node: ast.AST) -> list[ast.Call]:
    return [part for part in ast.walk(node) if isinstance(part, ast.Call)]


def executed(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield what runs when statements run: all but the bodies of the functions they define."""
    for node in nodes:
        yield node
        if isinstance(node, FUNCTIONS):
            returns = [node.returns] if node.returns else []
            yield from executed([*node.decorator_list, node.args, *returns])
        elif isinstance(node, ast.Lambda):
            yield from executed([node.args])
        else:
            yield from executed(ast.iter_child_nodes(node))


def arguments_of(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]


def bound_names(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the names that statements bind, without those inside functions and classes."""
    found: set[str] = set()
    for node in executed(nodes):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
    return found


def bindings(node: ast.AST) -> list[tuple[ast.expr, ast.expr]]:
    """Return the pairs (target, value) of what a node alone binds."""
    if isinstance(node, ast.Assign):
        return [(target, node.value) for target in node.targets]
    if isinstance(node, ast.AnnAssign | ast.NamedExpr | ast.AugAssign):
        return [(node.target, node.value)] if node.value is not None else []
    if isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
        return [(node.target, node.iter)]
    if isinstance(node, ast.withitem) and node.optional_vars is not None:
        return [(node.optional_vars, node.context_expr)]
    return []


def assigned_name(node: ast.AST) -> tuple[str, ast.expr] | None:
    """Return the name and the value of an assignment to one name; None for other nodes."""
    match bindings(node):
        case [(ast.Name(id=name), value)] if isinstance(node, ast.Assign | ast.AnnAssign):
            return name, value
    return None


def targets_of(target: ast.expr) -> Iterator[ast.expr]:
    """Yield the names, attributes and items that a target of an assignment consists of."""
    if isinstance(target, ast.Tuple | ast.List):
        for part in target.elts:
            yield from targets_of(part)
    else:
        yield target.value if isinstance(target, ast.Starred) else target
