"""Objects that a module has, and how a rank gets them: by importing the module itself."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

_CONTAINERS = (dict, list, set)


@dataclass(frozen=True)
class Origin:
    """Where a module has an object.

    Attributes
    ----------
    is_library
        The module is installed: what it has is each process's own. What a module of the user's
        has is to be as in the notebook, for scripts keep their settings so.
    """

    module: str
    attribute: str
    is_library: bool


def find(module: str, attribute: str) -> Any:
    return getattr(importlib.import_module(module), attribute)


def is_renewed_in_place(value: Any) -> bool:
    """Return whether what an object holds can be exchanged without making another object."""
    cls = type(value)
    if isinstance(value, _CONTAINERS):
        return True
    return (
        hasattr(value, "__dict__")
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
        value, origin = self._value, self._origin
        if not is_renewed_in_place(value):
            return _bind, (origin.module, origin.attribute, value)
        items = None
        if isinstance(value, _CONTAINERS):
            items = list(value.items() if isinstance(value, dict) else value)
        return _renew, (value, items, dict(getattr(value, "__dict__", {})))


def _bind(module: str, attribute: str, value: Any) -> None:
    setattr(importlib.import_module(module), attribute, value)


def _renew(there: Any, items: list[Any] | None, attributes: dict[str, Any]) -> None:
    if items is not None:
        there.clear()
        there.extend(items) if isinstance(there, list) else there.update(items)
    if attributes:
        vars(there).clear()
        vars(there).update(attributes)
