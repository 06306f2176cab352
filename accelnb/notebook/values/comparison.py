"""What a rank was sent of the notebook, and what of it is no longer so."""

from __future__ import annotations

import builtins
import copy
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from accelnb.engine.serialization.module_objects import Origin, Renewal
from accelnb.notebook.values.fingerprint import Fingerprint, Reading, can_change
from accelnb.notebook.values.module_objects import Imports

# What takes longer to compare (s) is compared only after the notebook has run code of its own.
_SLOW = 0.0001
_TOO_SLOW = 0.5  # and this is not compared at all

_BUILTINS = frozenset(dir(builtins))


@dataclass(eq=False)
class Known:
    """The value that a rank has of a name, as it was when it was sent.

    Attributes
    ----------
    then
        None if only another value counts as a change.
    uses
        Names that functions inside it refer to.
    is_own
        The rank has bound the name itself since.
    seen_at
        The moment when it was last compared.
    """

    value: Any  # or a weak reference to it
    is_weak: bool
    then: Fingerprint | None
    uses: frozenset[str]
    is_own: bool
    seen_at: int

    @classmethod
    def of(
        cls,
        value: Any,
        then: Fingerprint | None,
        uses: Iterable[str] = (),
        is_own: bool = False,
        seen_at: int = 0,
    ) -> Known:
        rest = (then, frozenset(uses), is_own, seen_at)
        try:
            return cls(weakref.ref(value), True, *rest)
        except TypeError:  # numbers, strings, containers
            return cls(value, False, *rest)

    def is_of(self, value: Any) -> bool:
        return (self.value() if self.is_weak else self.value) is value


@dataclass
class OnRank:
    """What a rank has of the notebook.

    Attributes
    ----------
    classes, imports
        What their classes, and objects of modules, held: digests.
    over_builtins
        Names of builtins that it has in the notebook's meaning.
    edits
        How many edits of modules there were when it was sent something.
    """

    names: dict[str, Known] = field(default_factory=dict)
    classes: weakref.WeakKeyDictionary[type, bytes | None] = field(
        default_factory=weakref.WeakKeyDictionary
    )
    imports: dict[Origin, bytes | None] = field(default_factory=dict)
    over_builtins: set[str] = field(default_factory=set)
    edits: int | None = None

    def copy(self) -> OnRank:
        return OnRank(*(copy.copy(value) for value in vars(self).values()))


@dataclass(frozen=True)
class Lacking:
    """What a rank has to be sent: names to bind and to delete, and what is to be renewed.

    Unlike a variable, a class or a module's object stays the same one on the rank.
    """

    names: frozenset[str] = frozenset()
    classes: frozenset[type] = frozenset()
    origins: frozenset[Origin] = frozenset()
    deleted: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.names or self.classes or self.origins or self.deleted)

    def __or__(self, more: Lacking) -> Lacking:
        return Lacking(*(a | b for a, b in self._beside(more)))

    def __sub__(self, there: Lacking) -> Lacking:
        return Lacking(*(a - b for a, b in self._beside(there)))

    def _beside(self, other: Lacking) -> Iterable[tuple[frozenset[Any], frozenset[Any]]]:
        return zip(vars(self).values(), vars(other).values(), strict=True)


class Comparison:
    """What the notebook has now, beside what ranks were sent.

    Parameters
    ----------
    namespace
        The notebook's variables.
    imports
        What it has of modules.
    is_users
        Whether a name of the namespace is one that ranks may be sent.

    Attributes
    ----------
    imported : dict of int to Origin
        The objects that ranks import, by their identity.
    changes, limits : dict of str to str
        What the user is to be told, by name: each time, and once.
    """

    def __init__(
        self,
        namespace: Mapping[str, Any],
        imports: Imports,
        is_users: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self.changes: dict[str, str] = {}
        self.limits = {str(origin): _too_large(origin) for origin in imports.left_out}
        self._namespace = namespace
        self._is_users = is_users
        self._moment = imports.moment
        self.reading = imports.reading()
        self._now: dict[tuple[str, bool], Fingerprint] = {}
        self._objects = imports.objects()
        self._edited = imports.edited
        self.imported = self._objects.imported

    def renewals(self, lacking: Lacking) -> list[Any]:
        """Return what brings classes and objects of modules up to date when it is unpickled."""
        held = [self._objects.held[origin] for origin in lacking.origins]
        return [*lacking.classes, *(Renewal(it.value, it.origin) for it in held)]

    def state_of(self, origin: Origin) -> bytes | None:
        """Return a digest of what a module's object holds; None if ranks only import it."""
        return self._objects.digests.get(origin)

    def note_edits(self, has: OnRank) -> None:
        """Tell of modules that a rank may have imported before they were edited."""
        for module in self._edited[has.edits :] if has.edits is not None else ():
            self.changes[module] = (
                f"{module} was edited and reloaded in the notebook; ranks that imported it before "
                "go on with its former code: --fresh starts new ones"
            )
        has.edits = len(self._edited)

    def lacking(self, names: Iterable[str], has: OnRank) -> Lacking:
        """Return what a rank lacks of some names, and of what their values need.

        Objects of modules count in any case, and so do deleted names that hid a builtin:
        functions use them unseen.
        """
        missing: set[str] = set()
        stale: set[type] = set()
        deleted = frozenset(name for name in has.over_builtins if name not in self._namespace)
        renewed = self._stale_origins(has)
        seen: set[Any] = set()
        to_see: list[str | type] = list(names)
        while to_see:
            it = to_see.pop()
            if it in seen:
                continue
            seen.add(it)
            if isinstance(it, type):
                now = self.reading.of_class(it)
                to_see += [*now.uses, *now.classes]
                if it not in has.classes or has.classes[it] != now.digest:
                    stale.add(it)
            elif self._is_users(it):
                value, had = self._namespace[it], has.names.get(it)
                if had is not None and self._is_still(it, had, value):
                    to_see += [*had.uses, *(had.then.classes if had.then else ())]
                    continue
                missing.add(it)
                if id(value) in self._objects.copied:
                    renewed.add(self._objects.copied[id(value)])
                if (now := self.now_of(it)) is not None:
                    to_see += [*now.uses, *now.classes]
        return Lacking(frozenset(missing), frozenset(stale), frozenset(renewed), deleted)

    def now_of(self, name: str, in_part: bool = False) -> Fingerprint | None:
        """Return the fingerprint of a variable, if it can be changed in place."""
        value = self._namespace[name]
        if id(value) in self.imported or not can_change(value):
            return None
        if (name, in_part) not in self._now:
            self._now[name, in_part] = self.reading.of(value, in_part)
        return self._now[name, in_part]

    def _stale_origins(self, has: OnRank) -> set[Origin]:
        now, sent = self._objects, has.imports
        stale = {origin for origin, digest in now.changed.items() if sent.get(origin) != digest}
        stale |= {o for o, digest in sent.items() if now.digests.get(o, digest) != digest}
        return stale

    def _is_still(self, name: str, had: Known, value: Any) -> bool:
        """Return whether a rank has the value that `name` has now, and as it is now."""
        if not had.is_of(value):
            return False
        then = had.then
        if then is None or id(value) in self.imported:
            return True
        if then.digest is None or then.seconds > _TOO_SLOW:
            self._note_unknown(name, value)
            return True
        if then.seconds > _SLOW and had.seen_at == self._moment:
            return True
        now = self.now_of(name, then.in_part)
        assert now is not None
        if now.digest == then.digest:
            had.seen_at = self._moment
            if then.is_partial:
                self._note_unknown(name, value)
            return True
        if now.digest != Reading(self._namespace).of(value, then.in_part).digest:
            self._note_unknown(name, value)  # it is never twice the same
            return True
        if had.is_own or then.has_tensors:
            self.changes[name] = (
                f"{name} was changed in the notebook, so the ranks get it anew; what their cells "
                "had made of it is gone"
            )
        return False

    def _note_unknown(self, name: str, value: Any) -> None:
        self.limits[name] = (
            f"{name} ({type(value).__name__}) cannot be compared whole before each cell: "
            f"after a change in place, `%accelnb push {name}` sends it"
        )


def _too_large(origin: Origin) -> str:
    return (
        f"{origin.module}.{origin.attribute} is too large to be compared before each cell: "
        "what the notebook changes in it, change in a distributed cell too"
    )


def over_builtins(names: Iterable[str]) -> frozenset[str]:
    """Return the names that Python itself has, too."""
    return _BUILTINS & frozenset(names)
