"""Have something done with a module as soon as it is imported, now or later."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

Hook = Callable[[ModuleType], None]


def when_imported(hooks: dict[str, Hook]) -> None:
    """Call each hook with the module of its name: at once if it is there, else on its import.

    Examples
    --------
    >>> from accelnb.engine.process.import_hooks import when_imported
    >>> when_imported({"json": lambda module: print(module.__name__)})
    json
    """
    later = {}
    for name, hook in hooks.items():
        if (module := sys.modules.get(name)) is not None:
            hook(module)
        else:
            later[name] = hook
    if later:
        sys.meta_path.insert(0, _Finder(later))


class _Finder(MetaPathFinder):
    def __init__(self, hooks: dict[str, Hook]) -> None:
        self._hooks = hooks

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._hooks:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            _extend(spec.loader, self._hooks[fullname])
        return spec


def _extend(loader: Any, hook: Hook) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        hook(module)

    loader.exec_module = exec_module
