"""Objects that a module has, and how a rank gets them: from the module, which it imports itself."""

from __future__ import annotations

import importlib
import sys
import types
from functools import reduce
from typing import Any, NamedTuple

from accelnb.engine.imports import when_imported

_CONTAINERS = (dict, list, set)


class Origin(NamedTuple):
    """Where a module has an object: ``("torch.nn.modules.module", "Module.forward")``."""

    module: str
    attribute: str

    def find(self) -> Any:
        """Return the object that this process's module has."""
        return reduce(getattr, self.attribute.split("."), importlib.import_module(self.module))

    def bind(self, value: Any) -> None:
        *owners, name = self.attribute.split(".")
        setattr(reduce(getattr, owners, importlib.import_module(self.module)), name, value)


def is_renewed_in_place(value: Any) -> bool:
    """Return whether what an object holds can be exchanged without making another object."""
    cls = type(value)
    if issubclass(cls, _CONTAINERS):
        return True
    return (
        hasattr(value, "__dict__")
        and not issubclass(cls, (type, types.FunctionType))
        and cls.__reduce_ex__ is object.__reduce_ex__
        and cls.__reduce__ is object.__reduce__
    )


class Renewal:
    """Brings a module's object on a rank to the state that `value` has here.

    That is done when it is unpickled, or when the module is imported there, now or later. Objects
    that cannot be renewed in place are bound anew in the module.
    """

    def __init__(self, value: Any, origin: Origin) -> None:
        self._value = value
        self._origin = origin

    def __reduce__(self) -> Any:
        value = self._value
        if not is_renewed_in_place(value):
            return _renew, (*self._origin, _Anew(value))
        items = None
        if isinstance(value, _CONTAINERS):
            items = list(value.items() if isinstance(value, dict) else value)
        return _renew, (*self._origin, _Contents(items, dict(getattr(value, "__dict__", {}))))


class _Anew(NamedTuple):
    value: Any

    def give_to(self, origin: Origin) -> None:
        origin.bind(self.value)


class _Contents(NamedTuple):
    items: list[Any] | None
    attributes: dict[str, Any]

    def give_to(self, origin: Origin) -> None:
        there = origin.find()
        if self.items is not None:
            there.clear()
            there.extend(self.items) if isinstance(there, list) else there.update(self.items)
        if self.attributes:
            vars(there).clear()
            vars(there).update(self.attributes)


_waiting: dict[str, dict[str, _Anew | _Contents]] = {}  # by module and attribute


def _renew(module: str, attribute: str, state: _Anew | _Contents) -> None:
    if module in sys.modules:
        state.give_to(Origin(module, attribute))
        return
    if module not in _waiting:
        when_imported({module: _renew_waiting})
    _waiting.setdefault(module, {})[attribute] = state


def _renew_waiting(module: types.ModuleType) -> None:
    for attribute, state in _waiting.pop(module.__name__, {}).items():
        state.give_to(Origin(module.__name__, attribute))
