"""Names that a module offers and imports when they are first used.

The module imports them under ``if TYPE_CHECKING:``. That is their only list: type checkers read it,
and so does this, from the module's text.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any


def lazy_name(module: str, name: str) -> Any:
    """Return what a module's ``__getattr__`` is to return for `name`, which the module then has.

    Examples
    --------
    >>> from accelnb.lazy_names import lazy_name
    >>> lazy_name("accelnb", "LaunchConfig").__module__
    'accelnb.options.config'
    """
    if name == "__all__":
        return list(homes(module))
    if name.startswith("__") or name not in homes(module):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(homes(module)[name]), name)
    setattr(sys.modules[module], name, value)
    return value


@functools.cache
def homes(module: str) -> dict[str, str]:
    """Return each name that a module offers so, with the module that it comes from."""
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(sys.modules[module]))
    (for_type_checkers,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = (node for node in for_type_checkers.body if isinstance(node, ast.ImportFrom))
    return {alias.name: str(node.module) for node in imports for alias in node.names}
