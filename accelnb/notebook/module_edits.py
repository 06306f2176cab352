"""Which modules of the user's were edited and read anew by the notebook, as `%autoreload` does."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any

_WRAPPERS = (staticmethod, classmethod, functools._lru_cache_wrapper)


class Edits:
    """Looks at the code of modules; a rank that has imported one goes on with what it was.

    Attributes
    ----------
    edited : list of str
        Modules in the order in which they were found to be edited, perhaps several times.
    """

    def __init__(self) -> None:
        self.edited: list[str] = []
        self._code: dict[str, dict[str, types.CodeType]] = {}

    def look_at(self, modules: Iterable[str]) -> None:
        """Compare modules with what they were, or take note of what they are."""
        for name in {*self._code, *modules}:
            if type(module := sys.modules.get(name)) is not types.ModuleType:
                continue
            now = dict(_code_in(module, name, ""))
            before = self._code.setdefault(name, now)
            # What is not there any more was patched, perhaps; what was is no edit.
            if any(before.get(place) != code for place, code in now.items()):
                self.edited.append(name)
                self._code[name] = before | now


def _code_in(owner: Any, module: str, path: str) -> Iterator[tuple[str, types.CodeType]]:
    value: Any
    for name, value in list(vars(owner).items()):
        if type(value) in _WRAPPERS:
            value = value.__wrapped__
        elif type(value) is property:
            value = value.fget
        while type(value) is types.FunctionType and "__wrapped__" in vars(value):
            value = vars(value)["__wrapped__"]
        if type(value) is types.FunctionType and value.__module__ == module:
            yield f"{path}{name}", value.__code__
        elif (
            issubclass(type(value), type)  # `isinstance` would ask a proxy
            and value.__module__ == module
            and value.__qualname__ == f"{path}{name}"
        ):
            yield from _code_in(value, module, f"{path}{name}.")
