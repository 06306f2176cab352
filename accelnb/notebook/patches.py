"""What the notebook has patched: functions of its own in the classes and modules of others."""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from accelnb.engine.origins import Origin
from accelnb.notebook.fingerprint import is_notebooks

_CHAIN = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_OWNERS = (type, types.ModuleType)


class Patches:
    """Finds them in what the text of cells speaks of, as ``nn.Module.count = count``.

    Parameters
    ----------
    namespace
        The notebook's variables.
    """

    def __init__(self, namespace: Mapping[str, Any]) -> None:
        self._namespace = namespace
        self._owners: dict[Origin, Any] = {}

    def look_for(self, texts: Iterable[str]) -> None:
        chains = {chain for text in texts for chain in _CHAIN.findall(text)}
        owners = {id(owner): owner for chain in chains for owner in self._owners_in(chain)}
        for owner in owners.values():
            for name, value in list(vars(owner).items()):
                if self._is_of_notebook(value) and (origin := _origin(owner, name)) is not None:
                    self._owners[origin] = owner

    def found(self) -> Iterator[tuple[Origin, Any]]:
        """Return what is patched now, and with what."""
        for origin, owner in list(self._owners.items()):
            value = vars(owner).get(origin.attribute.rpartition(".")[2])
            if self._is_of_notebook(value):
                yield origin, value
            else:
                del self._owners[origin]

    def _owners_in(self, chain: str) -> Iterator[Any]:
        first, *names = chain.split(".")
        owner = self._namespace.get(first)
        while issubclass(type(owner), _OWNERS):
            if not issubclass(type(owner), type) or not is_notebooks(owner):
                yield owner
            if not names:
                return
            owner = vars(owner).get(names.pop(0))

    def _is_of_notebook(self, value: Any) -> bool:
        if issubclass(type(value), type):
            return value.__module__ == "__main__"
        function = _FUNCTION_IN.get(type(value), _itself)(value)
        return type(function) is types.FunctionType and function.__globals__ is self._namespace


def _itself(value: Any) -> Any:
    return value


# Looked at by type: to ask anything else for an attribute may run code, and take a device.
_FUNCTION_IN: dict[type, Callable[[Any], Any]] = {
    property: lambda value: value.fget,
    staticmethod: lambda value: value.__func__,
    classmethod: lambda value: value.__func__,
    functools.cached_property: lambda value: value.func,
}


def _origin(owner: Any, name: str) -> Origin | None:
    if issubclass(type(owner), types.ModuleType):
        return Origin(owner.__name__, name) if owner.__name__ != "__main__" else None
    if "<locals>" in owner.__qualname__:
        return None
    return Origin(owner.__module__, f"{owner.__qualname__}.{name}")
