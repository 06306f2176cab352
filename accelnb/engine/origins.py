"""Objects that a module has, and how a rank gets them: from the module, which it imports itself."""

from __future__ import annotations

import importlib
import types
from functools import reduce
from typing import Any, NamedTuple

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
    if isinstance(value, _CONTAINERS):
        return True
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, type | types.FunctionType)
        and cls.__reduce_ex__ is object.__reduce_ex__
        and cls.__reduce__ is object.__reduce__
    )


class Renewal:
    """Brings a module's object on a rank to the state that `value` has here, when it is unpickled.

    Objects that cannot be renewed in place are bound anew in the module.
    """

    def __init__(self, value: Any, origin: Origin) -> None:
        self._value = value
        self._origin = origin

    def __reduce__(self) -> Any:
        value = self._value
        if not is_renewed_in_place(value):
            return _bind, (*self._origin, value)
        items = None
        if isinstance(value, _CONTAINERS):
            items = list(value.items() if isinstance(value, dict) else value)
        return _renew, (value, items, dict(getattr(value, "__dict__", {})))


def _bind(module: str, attribute: str, value: Any) -> None:
    Origin(module, attribute).bind(value)


def _renew(there: Any, items: list[Any] | None, attributes: dict[str, Any]) -> None:
    if items is not None:
        there.clear()
        there.extend(items) if isinstance(there, list) else there.update(items)
    if attributes:
        vars(there).clear()
        vars(there).update(attributes)
