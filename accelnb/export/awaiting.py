"""`await` outside of functions: a notebook has a running event loop, a script has none."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from accelnb.export.imported_names import Imported
from accelnb.export.statements import Statement
from accelnb.export.syntax import SCOPES

_LOOPS = (ast.AsyncFor, ast.AsyncWith, ast.comprehension)


def run_awaited(statement: Statement, imported: Imported) -> str:
    """Have ``asyncio.run(f())`` for ``await f()``.

    Returns
    -------
    why_not : str
        What of the statement has no such form, and what to do; empty if all has.
    """
    for node in _at_top(statement.node):
        call = node.value if isinstance(node, ast.Await) else None
        path = imported.path(call.func) if isinstance(call, ast.Call) else "asyncio."
        if call is None or (path.startswith("asyncio.") and path != "asyncio.sleep"):
            return (
                "it awaits outside of a function, and a script has no running event loop: put "
                "it into an `async def` function, and await that"
            )
        statement.replace(node, f"asyncio.run({statement.source_of(call)})")
    return ""


def awaits(statement: Statement) -> bool:
    """Return whether a statement awaits outside of functions."""
    return any(True for _ in _at_top(statement.node))


def _at_top(node: ast.AST) -> Iterator[ast.AST]:
    """Return what awaits outside of functions, the innermost first."""
    if isinstance(node, SCOPES):
        return
    for child in ast.iter_child_nodes(node):
        yield from _at_top(child)
    is_async = isinstance(node, _LOOPS) and getattr(node, "is_async", True)
    if isinstance(node, ast.Await) or is_async:
        yield node
