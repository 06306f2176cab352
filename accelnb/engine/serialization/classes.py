"""Classes that travel: each belongs to the process that defined it.

A copy from elsewhere brings up to date what came from elsewhere, never a process's own class: an
instance that a rank returns must not turn the notebook's class back to what the rank has.
"""

from __future__ import annotations

import contextlib
import enum
import types
import typing
import weakref
from collections.abc import Iterator
from typing import Any

from cloudpickle import cloudpickle

# Classes from elsewhere: the attributes that came with them, and the identities of their values.
_came_with: weakref.WeakKeyDictionary[type, dict[str, int]] = weakref.WeakKeyDictionary()
_MADE_BY_ENUM = {"_value_", "_name_", "__objclass__", "_sort_order_"}


def reduce_class(cls: type, reduced: Any) -> Any:
    """Return how to send `cls`, of which `reduced` is what cloudpickle would do."""
    if not isinstance(reduced, tuple) or len(reduced) < 6:
        return reduced  # importable by name
    _, args, (attributes, _), *_ = reduced
    attributes = {
        name: value
        for name, value in attributes.items()
        if not (isinstance(value, types.MemberDescriptorType) and value.__objclass__ is cls)
    }
    if issubclass(cls, enum.Enum):
        make, args, extras = _make_enum, *_enum_parts(cls, attributes)
    else:
        metaclass, name, bases, body, tracker, _ = args
        body = body | {"__qualname__": "".join(cls.__qualname__)}
        if "__slots__" in attributes:
            body["__slots__"] = attributes.pop("__slots__")
        if typing.NamedTuple in bases:  # it would make the fields anew
            bases = cls.__bases__
        make, args, extras = _make_class, (metaclass, name, bases, body, tracker), {}
    return make, args, (attributes, extras), None, None, _set_state


def _make_class(metaclass: type, name: str, bases: Any, body: dict[str, Any], tracker: str) -> type:
    if (known := cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)) is not None:
        return known
    inherited = _definer_of_init_subclass(types.resolve_bases(bases))
    # What one of ours did came with the class; a library keeps its books in each process.
    if inherited not in cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS:
        with contextlib.suppress(Exception):  # it misses what the class was made with
            return _tracked(_new_class(metaclass, name, bases, body), tracker)
    with _without_init_subclass(inherited):
        return _tracked(_new_class(metaclass, name, bases, body), tracker)


def _new_class(metaclass: type, name: str, bases: Any, body: dict[str, Any]) -> type:
    return types.new_class(name, bases, {"metaclass": metaclass}, lambda space: space.update(body))


def _definer_of_init_subclass(bases: tuple[Any, ...]) -> type:
    line = (cls for base in bases for cls in base.__mro__)
    return next((cls for cls in line if "__init_subclass__" in cls.__dict__), object)


@contextlib.contextmanager
def _without_init_subclass(cls: type) -> Iterator[None]:
    if cls is object:
        yield
        return
    defined = cls.__dict__["__init_subclass__"]
    type.__setattr__(cls, "__init_subclass__", classmethod(lambda cls, **_: None))
    try:
        yield
    finally:
        type.__setattr__(cls, "__init_subclass__", defined)


def _tracked(cls: type, tracker: str) -> type:
    _came_with[cls] = {}
    return cloudpickle._lookup_class_or_track(tracker, cls)


def _enum_parts(cls: Any, attributes: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what makes an enum, and what its members have beside their values."""
    members: dict[str, Any] = dict(cls.__members__)
    for name in members:
        attributes.pop(name, None)
    values = {name: (member.value, _plain(member)) for name, member in members.items()}
    tracker = cloudpickle._get_or_create_tracker_id(cls)
    boundary = getattr(cls, "_boundary_", None)
    identity = (cls.__bases__, cls.__name__, cls.__qualname__, cls.__module__)
    extras = {
        name: own
        for name, member in members.items()
        if (own := {k: v for k, v in member.__dict__.items() if k not in _MADE_BY_ENUM})
    }
    return (type(cls), *identity, values, boundary, tracker), extras


def _plain(member: Any) -> Any:
    """Return a member of an enum of numbers, texts … without the enum."""
    kind = type(member)._member_type_
    if kind is object:
        return None
    return str.__str__(member) if kind is str else kind(member)


def _make_enum(
    metaclass: Any,
    bases: Any,
    name: str,
    qualname: str,
    module: str,
    values: dict[str, tuple[Any, Any]],
    boundary: Any,
    tracker: str,
) -> type:
    if (known := cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)) is not None:
        return known
    body = metaclass.__prepare__(name, bases)
    body["__module__"], body["__qualname__"] = module, qualname
    # The members were made already: the class's own code for that does not run again.
    body["__new__"], body["__init__"] = _new_member, _init_member
    for member, parts in values.items():
        body[member] = _Ready(*parts)
    cls = metaclass.__new__(metaclass, name, bases, body, boundary=boundary)
    type.__delattr__(cls, "__init__")
    return _tracked(cls, tracker)


class _Ready:
    def __init__(self, value: Any, plain: Any) -> None:
        self.value, self.plain = value, plain


def _new_member(cls: Any, ready: Any) -> Any:
    ready = ready[0] if isinstance(ready, tuple) else ready
    kind = cls._member_type_
    member = object.__new__(cls) if kind is object else kind.__new__(cls, ready.plain)
    member._value_ = ready.value
    return member


def _init_member(*_: Any) -> None: ...


def _set_state(cls: Any, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    came = _came_with.get(cls)
    if came is None:
        return  # this process defined it
    attributes, extras = state
    for name in came.keys() - attributes.keys():
        if id(cls.__dict__.get(name)) == came[name]:  # else it was set here since
            type.__delattr__(cls, name)
    cloudpickle._class_setstate(cls, (attributes, {}))
    for name, own in extras.items():
        cls[name].__dict__.update(own)
    _came_with[cls] = {n: id(cls.__dict__[n]) for n in attributes if n in cls.__dict__}
