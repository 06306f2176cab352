"""What the notebook has changed in modules: patched there, or edited and read anew."""

from __future__ import annotations

import functools
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from accelnb.engine.serialization.module_objects import Origin
from accelnb.notebook.values.fingerprint import is_notebooks

_CHAIN = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_ASSIGNED = re.compile(r"^[ \t]*([A-Za-z_][\w.]*)\.([A-Za-z_]\w*)\s*=(?!=)", re.MULTILINE)
_OF_PROCESS = frozenset({"sys", "os", "builtins", "threading"})  # as `sys.stdout`
_WRAPPERS = (staticmethod, classmethod, functools._lru_cache_wrapper)


class Patches:
    """Finds what the notebook has patched in the classes and modules of others.

    These are functions and classes of its own there, as by ``nn.Module.count = count``, and what
    the text of a cell assigns, as ``ImageFile.LOAD_TRUNCATED_IMAGES = True``.

    Parameters
    ----------
    namespace
        The notebook's variables.
    """

    def __init__(self, namespace: Mapping[str, Any]) -> None:
        self._namespace = namespace
        self._owners: dict[Origin, Any] = {}
        self._assigned: dict[Origin, Any] = {}

    def owners_in(self, texts: Iterable[str]) -> dict[str, Any]:
        """Return the modules and classes that texts speak of, by what they are called there.

        Classes of the notebook are not among them.
        """
        chains = {chain for text in texts for chain in _CHAIN.findall(text)}
        return {called: owner for chain in chains for called, owner in self._owners_in(chain)}

    def look_at(self, owners: Mapping[str, Any]) -> None:
        """Take note of what is patched in these."""
        for owner in {id(owner): owner for owner in owners.values()}.values():
            for name, value in list(vars(owner).items()):
                if self._is_of_notebook(value) and (origin := _origin(owner, name)) is not None:
                    self._owners[origin] = owner

    def look_for_assignments(self, owners: Mapping[str, Any], texts: Iterable[str]) -> None:
        """Take note of what texts assign to attributes of these."""
        for text in texts:
            for called, name in _ASSIGNED.findall(text):
                owner = owners.get(called)
                if owner is None or getattr(owner, "__name__", None) in _OF_PROCESS:
                    continue
                if name in vars(owner) and (origin := _origin(owner, name)) is not None:
                    self._assigned[origin] = owner

    def found(self) -> Iterator[tuple[Origin, Any]]:
        """Return what is patched now, and with what."""
        for origin, owner in list(self._assigned.items()):
            name = origin.attribute.rpartition(".")[2]
            if name in vars(owner):
                yield origin, vars(owner)[name]
        for origin, owner in list(self._owners.items()):
            value = vars(owner).get(origin.attribute.rpartition(".")[2])
            if self._is_of_notebook(value):
                yield origin, value
            else:
                del self._owners[origin]

    def _owners_in(self, chain: str) -> Iterator[tuple[str, Any]]:
        first, *names = chain.split(".")
        called, owner = first, self._namespace.get(first)
        while (is_class := _is(owner, type)) or _is(owner, types.ModuleType):
            if not is_class or not is_notebooks(owner):
                yield called, owner
            if not names:
                return
            called = f"{called}.{names[0]}"
            owner = vars(owner).get(names.pop(0))

    def _is_of_notebook(self, value: Any) -> bool:
        value = _unwrapped(value)
        if type(value) is types.FunctionType:
            return value.__globals__ is self._namespace
        return _is(value, type) and value.__module__ == "__main__"


class Edits:
    """Finds which modules of the user's were edited and read anew, as `%autoreload` does.

    A rank that has imported one goes on with what it was.

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
    for name, held in list(vars(owner).items()):
        value = _unwrapped(held)
        while type(value) is types.FunctionType and "__wrapped__" in vars(value):
            value = vars(value)["__wrapped__"]
        if type(value) is types.FunctionType and value.__module__ == module:
            yield f"{path}{name}", value.__code__
        elif _is(value, type) and (value.__module__, value.__qualname__) == (module, path + name):
            yield from _code_in(value, module, f"{path}{name}.")


def _unwrapped(value: Any) -> Any:
    """Return what a property or method is made of.

    Nothing but its type is asked of any other value: a lazy module would be imported.
    """
    if type(value) is property:
        return value.fget
    return value.__wrapped__ if type(value) in _WRAPPERS else value


def _is(value: Any, kind: type) -> bool:
    return issubclass(type(value), kind)  # `isinstance` would ask a proxy


def _origin(owner: Any, name: str) -> Origin | None:
    if _is(owner, types.ModuleType):
        module = getattr(owner, "__name__", None)  # it can be deleted
        return Origin(module, name) if isinstance(module, str) and module != "__main__" else None
    if "<locals>" in owner.__qualname__:
        return None
    return Origin(owner.__module__, f"{owner.__qualname__}.{name}")
