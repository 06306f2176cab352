"""What import statements of the notebook bound: ranks import it too, instead of a copy.

A function or class of a module is imported there anyway. This is about all else that a module
has: a registry, settings, a logger, ``sys.stdout``. A copy of it would be another object than the
one which the module's own functions use.
"""

from __future__ import annotations

import functools
import re
import sys
import sysconfig
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accelnb.engine.origins import Origin
from accelnb.names import CellNames
from accelnb.notebook.fingerprint import Reading, can_change

_WORD = re.compile(r"[A-Za-z_]\w*")
_STDLIB = Path(sysconfig.get_path("stdlib"))
_INSTALLED = {"site-packages", "dist-packages"}


class Imports:
    """Which objects of modules the notebook's names are bound to, by an import.

    Parameters
    ----------
    namespace
        The notebook's variables.

    Attributes
    ----------
    untouched : dict of Origin to bytes
        Digests of objects as the import of their module left them.
    """

    def __init__(self, namespace: Mapping[str, Any]) -> None:
        self._namespace = namespace
        self._origins: dict[str, Origin] = {}
        self.untouched: dict[Origin, bytes] = {}

    def read(self, cells: Iterable[tuple[str, CellNames]]) -> None:
        """Take note of the imports in cells that were run, each its text and its names."""
        cells = list(cells)
        if not any(names.imports for _, names in cells):
            return
        words = [word for text, _ in cells for word in _WORD.findall(text)]
        for _, names in cells:
            for name, module, attribute in names.imports:
                if attribute == "*":
                    for public in self._public(module):
                        self._note(public, module, public, is_untouched=public not in words)
                else:
                    self._note(name, module, attribute, is_untouched=words.count(name) == 1)

    def objects(self) -> list[tuple[Any, Origin]]:
        """Return the objects that an import bound a name to, and still does."""
        found = []
        for name, origin in list(self._origins.items()):
            value = self._namespace.get(name)
            if value is not None and _attribute(origin.module, origin.attribute) is value:
                found.append((value, origin))
            else:  # one or the other was bound anew
                del self._origins[name]
        return found

    def _public(self, module: str) -> list[str]:
        there = vars(sys.modules.get(module, types))
        public = there.get("__all__") or [name for name in there if not name.startswith("_")]
        return [name for name in public if name in self._namespace]

    def _note(self, name: str, module: str, attribute: str, is_untouched: bool) -> None:
        value = self._namespace.get(name)
        if module == "__main__" or _attribute(module, attribute) is not value:
            return
        if isinstance(value, type | types.FunctionType) or not can_change(value):
            return
        origin = self._origins[name] = Origin(module, attribute, _is_library(module))
        if is_untouched and not origin.is_library:
            digest = Reading(self._namespace).of(value).digest
            if digest is not None:
                self.untouched.setdefault(origin, digest)


def _attribute(module: str, attribute: str) -> Any:
    return getattr(sys.modules.get(module), attribute, None)


@functools.cache
def _is_library(module: str) -> bool:
    spec = getattr(sys.modules.get(module), "__spec__", None)
    if spec is None or not spec.has_location or spec.origin is None:
        return True
    file = Path(spec.origin)
    return file.is_relative_to(_STDLIB) or not _INSTALLED.isdisjoint(file.parts)
