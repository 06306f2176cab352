"""What modules have that the notebook uses, besides functions and classes.

Ranks import a module themselves. A copy of a registry, of settings, a logger or ``sys.stdout``
would be another object there than the one which the module's own functions use. So the ranks get
the module's object; and if it is of a module of the user's, and the notebook has changed it, its
state. What an installed library has is each process's own.
"""

from __future__ import annotations

import collections
import enum
import functools
import re
import sys
import sysconfig
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from accelnb.engine.serialization.module_objects import Origin, is_renewed_in_place, settings_of
from accelnb.jupyter.cell_names import CellNames
from accelnb.notebook.values.fingerprint import Fingerprint, Reading, can_change, is_notebooks
from accelnb.notebook.values.module_changes import Edits, Patches

_WORD = re.compile(r"[A-Za-z_]\w*")
_STDLIB = Path(sysconfig.get_path("stdlib"))
_INSTALLED = {"site-packages", "dist-packages"}
_SLOW = 0.01  # s
_NOT_FOLLOWED = (types.ModuleType, types.BuiltinFunctionType)

_There = tuple[Origin, Any, Any]  # where an object is, the object, and what is read of it


@dataclass(frozen=True)
class Held:
    """An object that a module has.

    Attributes
    ----------
    now
        None if each process has one of its own, whatever the notebook does to its own.
    """

    value: Any
    origin: Origin
    now: Fingerprint | None


class Objects:
    """What modules have at one time.

    Attributes
    ----------
    held : dict of Origin to Held
        All that is followed.
    digests : dict of Origin to bytes
        Of those that ranks do not only import.
    changed : dict of Origin to bytes
        And of those that are not as their import left them.
    imported, copied : dict of int to Origin
        Objects by their identity. Names become the module's own object by its import, or else a
        copy, to which the module's name is bound too.
    """

    def __init__(self, found: Iterable[Held], untouched: Mapping[Origin, bytes]) -> None:
        self.held = {held.origin: held for held in found}
        digests = {held.origin: held.now.digest for held in self.held.values() if held.now}
        self.digests = {origin: digest for origin, digest in digests.items() if digest is not None}
        self.changed = {o: d for o, d in self.digests.items() if untouched.get(o) != d}
        self.imported: dict[int, Origin] = {}
        self.copied: dict[int, Origin] = {}
        for held in self.held.values():
            if can_change(held.value):
                is_copied = held.now is not None and not is_renewed_in_place(held.value)
                of = self.copied if is_copied else self.imported
                of[id(held.value)] = held.origin


class Imports:
    """Follows the objects of modules that the notebook has imported.

    Parameters
    ----------
    namespace
        The notebook's variables.

    Attributes
    ----------
    untouched : dict of Origin to bytes
        Digests of objects as the import of their module left them.
    moment : int
        Counts how often the notebook has run code of its own, which may change what there is.
    left_out : set of Origin
        What of the user's modules is too large to be followed.
    edited : list of str
        Modules of the user's whose code has changed, in the order of that.
    """

    def __init__(self, namespace: Mapping[str, Any]) -> None:
        self._namespace = namespace
        self._patches = Patches(namespace)
        self._edits = Edits()
        self._bound: dict[str, Origin] = {}  # by the notebook's name
        # Of the user's: modules that cells speak of by way of others, as `package.settings.lr`,
        self._modules: dict[str, types.ModuleType] = {}
        self._classes: dict[str, type] = {}  # and classes, by the notebook's name.
        self._seen: set[str | type] = set()  # of these, and of modules in modules
        self._objects = Objects((), {})
        self._objects_at = -1
        self._reading = Reading(namespace)
        self.moment = 0
        self.untouched: dict[Origin, bytes] = {}
        self.left_out: set[Origin] = set()
        self.edited = self._edits.edited

    def read(self, cells: Iterable[tuple[str, CellNames]]) -> None:
        """Take note of what cells that were run imported; each is its text and its names."""
        cells = list(cells)
        words = collections.Counter(word for text, _ in cells for word in _WORD.findall(text))
        bound = list(self._bound_by(names for _, names in cells))
        spoken_of = {name for name, _, by_name in bound if words[name] > by_name}
        # Code of a module that was run since its import may have changed all that it has.
        ran = {
            origin.module
            for name, origin, _ in bound
            if name in spoken_of and callable(self._namespace.get(name))
        }
        for name, origin, _ in bound:
            self._bind(name, origin, name not in spoken_of and origin.module not in ran)
        users = {origin.module for _, origin, _ in bound if not _is_library(origin.module)}
        self._edits.look_at(users - {"__main__"})
        owners = self._patches.owners_in(text for text, _ in cells)
        others = {called: owner for called, owner in owners.items() if not _is_users(owner)}
        self._patches.look_at(owners)
        self._patches.look_for_assignments(others, (text for text, _ in cells))
        once = {name for _, names in cells for name in names.bound if words[name] == 1}
        self._follow(owners, only_imported=once)

    def objects(self) -> Objects:
        """Return what modules have now."""
        if self._objects_at != self.moment:
            reading = self._reading = Reading(self._namespace)
            found = {held.origin: held for held in self._still_bound(reading)}
            for cls in self._still_classes():
                self._add(_in_class(cls), found, reading)
            own = self._own_modules().values()
            for module in own:
                self._add(_in_module(module), found, reading)
            for origin, value in self._patches.found():
                found[origin] = Held(value, origin, reading.of(value))
            self._edits.look_at(module.__name__ for module in own)
            self._objects = Objects(found.values(), self.untouched)
            self._objects_at = self.moment
        return self._objects

    def _bound_by(self, cells: Iterable[CellNames]) -> Iterator[tuple[str, Origin, bool]]:
        """Return what import statements bound, from where, and whether they gave its name."""
        for names in cells:
            for name, module, attribute in names.imports:
                if attribute == "*":
                    for public in self._public(module):
                        yield public, Origin(module, public), False
                else:
                    yield name, Origin(module, attribute), True

    def reading(self) -> Reading:
        """Return what reads values now; what it knows of classes holds for this moment."""
        self.objects()
        return self._reading

    def _public(self, module: str) -> list[str]:
        there = getattr(sys.modules.get(module), "__dict__", {})
        public = there.get("__all__") or [name for name in there if not name.startswith("_")]
        return [name for name in public if isinstance(name, str) and name in self._namespace]

    def _bind(self, name: str, origin: Origin, is_untouched: bool) -> None:
        value = self._namespace.get(name)
        if origin.module == "__main__" or not _is_held(value) or _attribute(origin) is not value:
            return
        self._bound[name] = origin
        if is_untouched and not _is_library(origin.module):
            self._note_untouched([Held(value, origin, Reading(self._namespace).of(value))])

    def _follow(self, owners: Mapping[str, Any], only_imported: Collection[str]) -> None:
        """Follow modules and classes of the user's, as they are or as their import left them."""
        own = {called: owner for called, owner in owners.items() if _is_users(owner)}
        for called, owner in own.items():
            if isinstance(owner, types.ModuleType):
                self._modules[owner.__name__] = owner
            elif "." not in called:
                self._classes[called] = owner
        for called, owner in [*own.items(), *self._own_modules().items()]:
            self._see(owner, called.partition(".")[0] in only_imported)

    def _see(self, owner: Any, is_untouched: bool) -> None:
        key = owner.__name__ if isinstance(owner, types.ModuleType) else owner
        if key in self._seen:
            return
        self._seen.add(key)
        if not is_untouched:
            return
        is_class = isinstance(owner, type)
        there = _in_class(owner) if is_class else _in_module(owner)
        self._note_untouched(self._add(there, {}, Reading(self._namespace)).values())
        for inside in () if is_class else list(vars(owner).values()):
            if type(inside) is types.ModuleType and _is_users(inside):
                self._see(inside, True)

    def _note_untouched(self, found: Iterable[Held]) -> None:
        for held in found:
            if held.now is not None and held.now.digest is not None:
                self.untouched.setdefault(held.origin, held.now.digest)

    def _still_bound(self, reading: Reading) -> Iterator[Held]:
        for name, origin in list(self._bound.items()):
            value = self._namespace.get(name)
            if value is None or _attribute(origin) is not value:
                del self._bound[name]  # one or the other was bound anew
                continue
            now = None if _is_library(origin.module) else reading.of(value)
            is_known = now is not None and now.digest is not None
            yield Held(value, origin, now if is_known else None)

    def _still_classes(self) -> Iterator[type]:
        for name, cls in list(self._classes.items()):
            if self._namespace.get(name) is cls:
                yield cls
            else:
                del self._classes[name]

    def _own_modules(self) -> dict[str, types.ModuleType]:
        """Return modules of the user's, by a name of the notebook or their own."""
        return self._modules | {
            name: value
            for name, value in list(self._namespace.items())
            if type(value) is types.ModuleType and _is_users(value)
        }

    def _add(
        self, there: Iterable[_There], found: dict[Origin, Held], reading: Reading
    ) -> dict[Origin, Held]:
        for origin, value, state in there:
            if origin in found or origin in self.left_out:
                continue
            now = reading.of(state)
            if now.digest is None:
                continue
            if now.is_partial or now.seconds > _SLOW:
                self.left_out.add(origin)
            else:
                found[origin] = Held(value, origin, now)
        return found


def _in_module(module: types.ModuleType) -> Iterator[_There]:
    """Give what a module has for others to set."""
    for name, value in list(vars(module).items()):
        if name.startswith("_") or type(value) in _NOT_FOLLOWED:
            continue
        is_class = issubclass(type(value), type)
        if not (is_class or issubclass(type(value), types.FunctionType)) or is_notebooks(value):
            yield Origin(module.__name__, name), value, value
        elif is_class and value.__module__ == module.__name__:
            yield from _in_class(value)


def _in_class(cls: type) -> Iterator[_There]:
    """Give the settings that a class is, and those of classes in it."""
    if "<locals>" in cls.__qualname__ or issubclass(cls, enum.Enum):
        return
    if settings := settings_of(cls):
        yield Origin(cls.__module__, cls.__qualname__), cls, list(settings.items())
    for name, value in list(vars(cls).items()):
        if issubclass(type(value), type) and value.__qualname__ == f"{cls.__qualname__}.{name}":
            yield from _in_class(value)


def _is_held(value: Any) -> bool:
    return can_change(value) and not issubclass(type(value), type | types.FunctionType)


def _attribute(origin: Origin) -> Any:
    try:
        return getattr(sys.modules.get(origin.module), origin.attribute, None)
    except Exception:  # of a module that makes what it is asked for
        return None


def _is_users(owner: Any) -> bool:
    """Return whether a module, or the one that a class is of, is beside the notebook."""
    of = "__name__" if isinstance(owner, types.ModuleType) else "__module__"
    module = getattr(owner, of, None)
    return isinstance(module, str) and module != "__main__" and not _is_library(module)


@functools.cache
def _is_library(module: str) -> bool:
    if module.partition(".")[0] == "accelnb":  # also in a clone
        return True
    spec = getattr(sys.modules.get(module), "__spec__", None)
    if not isinstance(spec, ModuleSpec) or not spec.has_location or spec.origin is None:
        return True
    file = Path(spec.origin)
    return file.is_relative_to(_STDLIB) or not _INSTALLED.isdisjoint(file.parts)
