"""What modules have that the notebook uses, besides functions and classes.

Ranks import a module themselves. A copy of a registry, of settings, a logger or ``sys.stdout``
would be another object there than the one which the module's own functions use. So the ranks get
the module's object; and if it is of a module of the user's, and the notebook has changed it, its
state. What an installed library has is each process's own.
"""

from __future__ import annotations

import contextlib
import functools
import re
import sys
import sysconfig
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from accelnb.engine.origins import Origin
from accelnb.names import CellNames, analyse
from accelnb.notebook.cell import future_of
from accelnb.notebook.fingerprint import Fingerprint, Reading, can_change, is_notebooks
from accelnb.notebook.patches import Patches

_WORD = re.compile(r"[A-Za-z_]\w*")
_STDLIB = Path(sysconfig.get_path("stdlib"))
_INSTALLED = {"site-packages", "dist-packages"}
_SLOW = 0.01  # s
_MODULES = (types.ModuleType, types.BuiltinFunctionType)
_DEFINED = (type, types.FunctionType)


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
    """

    def __init__(self, namespace: Mapping[str, Any]) -> None:
        self._namespace = namespace
        self._patches = Patches(namespace)
        self._bound: dict[str, Origin] = {}  # by the notebook's name
        self._seen: set[str] = set()  # modules of the user's
        self._left_out: set[Origin] = set()  # what a module has that is too much to follow
        self._held: list[Held] = []
        self._held_at = -1
        self._reading = Reading(namespace)
        self.moment = 0
        self.untouched: dict[Origin, bytes] = {}

    def read(self, cells: Iterable[tuple[str, CellNames]]) -> None:
        """Take note of what cells that were run imported; each is its text and its names."""
        cells = list(cells)
        words = [word for text, _ in cells for word in _WORD.findall(text)]
        for _, names in cells:
            for name, module, attribute in names.imports:
                if attribute == "*":
                    for public in self._public(module):
                        self._bind(public, Origin(module, public), public not in words)
                else:
                    self._bind(name, Origin(module, attribute), words.count(name) == 1)
        for name, module in self._own_modules():
            if module.__name__ not in self._seen:
                self._seen.add(module.__name__)
                if words.count(name) == 1:  # where it is imported
                    for held in self._held_by(module, ()):
                        self._note_untouched(held.origin, held.now)
        self._patches.look_for(text for text, _ in cells)

    def objects(self) -> list[Held]:
        """Return what modules have now."""
        if self._held_at != self.moment:
            self._reading = Reading(self._namespace)
            found = list(self._still_bound())
            origins = {held.origin for held in found}
            for _, module in self._own_modules():
                found += self._held_by(module, origins)
            reading = Reading(self._namespace)
            found += [
                Held(value, origin, reading.of(value)) for origin, value in self._patches.found()
            ]
            self._held, self._held_at = found, self.moment
        return self._held

    def reading(self) -> Reading:
        """Return what reads values now; what it knows of classes holds for this moment."""
        self.objects()
        return self._reading

    def _public(self, module: str) -> list[str]:
        there = vars(sys.modules.get(module, types))
        public = there.get("__all__") or [name for name in there if not name.startswith("_")]
        return [name for name in public if name in self._namespace]

    def _bind(self, name: str, origin: Origin, is_untouched: bool) -> None:
        value = self._namespace.get(name)
        if origin.module == "__main__" or _attribute(origin) is not value or not _is_held(value):
            return
        self._bound[name] = origin
        if is_untouched and not _is_library(origin.module):
            self._note_untouched(origin, Reading(self._namespace).of(value))

    def _note_untouched(self, origin: Origin, now: Fingerprint | None) -> None:
        if now is not None and now.digest is not None:
            self.untouched.setdefault(origin, now.digest)

    def _still_bound(self) -> Iterator[Held]:
        reading = Reading(self._namespace)
        for name, origin in list(self._bound.items()):
            value = self._namespace.get(name)
            if value is None or _attribute(origin) is not value:
                del self._bound[name]  # one or the other was bound anew
                continue
            now = None if _is_library(origin.module) else reading.of(value)
            is_known = now is not None and now.digest is not None
            yield Held(value, origin, now if is_known else None)

    def _own_modules(self) -> Iterator[tuple[str, types.ModuleType]]:
        """Return the modules of the user's that names stand for, once each."""
        modules = {
            id(value): (name, value)
            for name, value in list(self._namespace.items())
            if type(value) is types.ModuleType and not _is_library(value.__name__)
        }
        return iter(modules.values())

    def _held_by(self, module: types.ModuleType, known: Collection[Origin]) -> Iterator[Held]:
        """Return what a module has for others to set, if it is small."""
        reading = Reading(self._namespace)
        for name, value in list(vars(module).items()):
            origin = Origin(module.__name__, name)
            if name.startswith("_") or origin in known or origin in self._left_out:
                continue
            if issubclass(type(value), _MODULES):
                continue
            if issubclass(type(value), _DEFINED) and not is_notebooks(value):
                continue
            now = reading.of(value)
            if now.is_partial or now.seconds > _SLOW:
                self._left_out.add(origin)
            else:
                yield Held(value, origin, now)


def imports_so_far(shell: InteractiveShell | None) -> Imports:
    """Return the imports of a notebook without the extension, or of the script that runs."""
    main = sys.modules["__main__"]
    if shell is not None:
        namespace, texts = shell.user_ns, cells_before(shell)
    else:
        namespace, texts = vars(main), []
        with contextlib.suppress(AttributeError, OSError):  # it is no file
            texts = [Path(main.__file__ or "").read_text()]
    imports = Imports(namespace)
    imports.read((text, names_in(text, shell)) for text in texts)
    return imports


def cells_before(shell: InteractiveShell) -> list[str]:
    """Return the text of the cells that a notebook has run."""
    history: Any = shell.history_manager
    return list(history.input_hist_raw[1:]) if history is not None else []


def names_in(text: str, shell: InteractiveShell | None) -> CellNames:
    """Return the names of a cell that was run, or of a script; none if it is not Python."""
    with contextlib.suppress(SyntaxError, ValueError):
        if shell is None:
            return analyse(text)
        return analyse(shell.transform_cell(text), future_of(shell))
    return CellNames()


def _is_held(value: Any) -> bool:
    return can_change(value) and not issubclass(type(value), _DEFINED)


def _attribute(origin: Origin) -> Any:
    return getattr(sys.modules.get(origin.module), origin.attribute, None)


@functools.cache
def _is_library(module: str) -> bool:
    if module.partition(".")[0] == "accelnb":  # also in a clone
        return True
    spec = getattr(sys.modules.get(module), "__spec__", None)
    if spec is None or not spec.has_location or spec.origin is None:
        return True
    file = Path(spec.origin)
    return file.is_relative_to(_STDLIB) or not _INSTALLED.isdisjoint(file.parts)
