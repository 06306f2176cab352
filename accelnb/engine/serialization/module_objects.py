"""Objects that a module has, and how a rank gets them: from the module, which it imports itself."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections import defaultdict
from functools import reduce
from typing import Any, NamedTuple

from accelnb.engine.process.import_hooks import when_imported

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

    def is_of_class(self, value: Any) -> bool:
        """Return whether `value` is a class that its own module has here."""
        return issubclass(type(value), type) and self == (value.__module__, value.__qualname__)


def is_renewed_in_place(value: Any) -> bool:
    """Return whether what an object holds can be exchanged without making another object."""
    cls = type(value)
    if issubclass(cls, _CONTAINERS):
        return True
    return (
        hasattr(value, "__dict__")
        and not issubclass(cls, type | types.FunctionType)
        and cls.__reduce_ex__ is object.__reduce_ex__
        and cls.__reduce__ is object.__reduce__
    )


def settings_of(cls: type) -> dict[str, Any]:
    """Return what a class holds for others to set, as ``lr`` in ``class CFG: lr = 0.1``."""
    return {
        name: value
        for name, value in list(vars(cls).items())
        if not name.startswith("_") and not _is_code(value)
    }


def _is_code(value: Any) -> bool:
    return issubclass(type(value), type) or hasattr(type(value), "__get__")


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
        state: _Anew | _Contents | _Settings
        if self._origin.is_of_class(value):
            state = _Settings(settings_of(value))
        elif is_renewed_in_place(value):
            state = _Contents(self._kind(), _items(value), _attributes(value))
        else:
            state = _Anew(value)
        return _renew, (*self._origin, state)

    def _kind(self) -> Any:
        """Return the object's class: by its name, if else a rank would import the module now."""
        cls = type(self._value)
        own = Origin(cls.__module__, cls.__qualname__)
        return own if own.module == self._origin.module else cls


def _items(value: Any) -> dict[Any, Any] | list[Any] | None:
    if isinstance(value, dict):
        return dict(value)
    return list(value) if isinstance(value, _CONTAINERS) else None


def _attributes(value: Any) -> dict[str, Any]:
    if isinstance(value, defaultdict):
        return {"default_factory": value.default_factory}
    return dict(getattr(value, "__dict__", {}))


class _Anew(NamedTuple):
    value: Any

    def give_to(self, origin: Origin) -> None:
        origin.bind(self.value)


class _Settings(NamedTuple):
    """Of a class."""

    values: dict[str, Any]

    def give_to(self, origin: Origin) -> None:
        cls = origin.find()
        for name in settings_of(cls).keys() - self.values.keys():
            delattr(cls, name)
        for name, value in self.values.items():
            setattr(cls, name, value)


class _Contents(NamedTuple):
    kind: Any
    items: dict[Any, Any] | list[Any] | None
    attributes: dict[str, Any]

    def give_to(self, origin: Origin) -> None:
        there: Any = None
        with contextlib.suppress(AttributeError):
            there = origin.find()
        kind = self.kind.find() if isinstance(self.kind, Origin) else self.kind
        if type(there) is not kind:  # the notebook has put another object in its place
            there = kind.__new__(kind)
            origin.bind(there)
        if self.items is not None:
            there.clear()
            there.extend(self.items) if isinstance(there, list) else there.update(self.items)
        if isinstance(there, defaultdict):
            there.default_factory = self.attributes["default_factory"]
        elif hasattr(there, "__dict__"):
            attributes = object.__getattribute__(there, "__dict__")
            attributes.clear()
            attributes.update(self.attributes)


_waiting: dict[str, dict[str, _Anew | _Contents | _Settings]] = {}  # by module and attribute


def _renew(module: str, attribute: str, state: _Anew | _Contents | _Settings) -> None:
    if module in sys.modules:
        state.give_to(Origin(module, attribute))
        return
    if module not in _waiting:
        when_imported({module: _renew_waiting})
    _waiting.setdefault(module, {})[attribute] = state


def _renew_waiting(module: types.ModuleType) -> None:
    for attribute, state in _waiting.pop(module.__name__, {}).items():
        state.give_to(Origin(module.__name__, attribute))
