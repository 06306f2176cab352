"""What a cell takes from the notebook to the ranks.

A variable is sent to a rank when a cell there first needs it, and again when the notebook
rebinds it. What a rank's cells assign stays theirs until then.
"""

from __future__ import annotations

import linecache
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from accelnb.engine.tensors import Finish, Pack, Packed, finished
from accelnb.errors import AccelnbError
from accelnb.names import CellNames

# Every rank has these of its own: the notebook's are never sent over them.
RANK_NAMES = frozenset({"rank", "local_rank", "world_size", "device"})
# A plain container up to this size is also compared by content, so that `cfg["lr"] = 0.1` in
# the notebook is noticed although the name is not rebound.
_COMPARED_ITEMS = 1000
_COMPARED_BYTES = 1 << 16


class CannotSend(AccelnbError):
    """A variable that a cell needs cannot be serialized. Nothing was sent."""


@dataclass(frozen=True)
class _Known:
    """A value that a rank has: the one bound to a name when it was sent."""

    value: Any  # or a weak reference to it
    is_weak: bool
    content: bytes | None
    uses: frozenset[str]  # names that functions inside it refer to

    @classmethod
    def of(cls, value: Any, uses: Iterable[str] = ()) -> _Known:
        try:
            return cls(weakref.ref(value), True, None, frozenset(uses))
        except TypeError:  # numbers, strings, containers
            return cls(value, False, _content(value), frozenset(uses))

    def still(self, value: Any) -> bool:
        held = self.value() if self.is_weak else self.value
        return held is value and (self.content is None or self.content == _content(value))


class Capture:
    """Keeps what each rank of a group knows of the notebook.

    Parameters
    ----------
    namespace
        The notebook's variables.
    hidden
        Names in it that are IPython's own, never sent.
    """

    def __init__(self, namespace: dict[str, Any], hidden: Mapping[str, Any] | None = None) -> None:
        self._namespace = namespace
        self._hidden = hidden if hidden is not None else {}
        self._known: dict[int, dict[str, _Known]] = {}
        self._known_before: dict[int, dict[str, _Known]] = {}  # the newest pack for each rank
        self._bound_to: dict[str, int] = {}  # the identities of its values at the newest pack
        self._rebound: set[str] = set()  # names bound anew since then

    def forget(self, ranks: Iterable[int]) -> None:
        """Take note that these ranks are new and know nothing."""
        for rank in ranks:
            self._known.pop(rank, None)
            self._known_before.pop(rank, None)

    def not_received(self, ranks: Iterable[int]) -> None:
        """Take note that the newest pack did not get to these ranks."""
        for rank in ranks:
            self._known[rank] = dict(self._known_before.get(rank, {}))

    def send_again(self, names: Iterable[str]) -> None:
        """Take note that these names are to be sent, whatever the ranks have."""
        again = frozenset(names)
        self._rebound |= again
        for known in [*self._known.values(), *self._known_before.values()]:
            for name in again & known.keys():
                del known[name]

    def assigned(self, names: Mapping[int, Iterable[str]]) -> None:
        """Take note of what ranks assigned in the newest cell: their own values count now."""
        for rank, own in names.items():
            for name in own:
                value = self._namespace.get(name)
                if id(value) == self._bound_to.get(name) and name not in self._rebound:
                    self._known.setdefault(rank, {})[name] = _Known.of(value)

    def let_go_of_deleted(self) -> None:
        """Hold no value of a name that the notebook has deleted."""
        for known in [*self._known.values(), *self._known_before.values()]:
            for name in known.keys() - self._namespace.keys():
                del known[name]

    def pack(
        self, names: CellNames, ranks: Iterable[int], finish: Finish = finished
    ) -> dict[int, Packed | None]:
        """Return for each rank a pack of the values which `names` needs, if any.

        Ranks that lack the same values share one pack, and all packs their large buffers.
        Nothing is taken as sent when this raises.

        Raises
        ------
        CannotSend
            A value cannot be serialized; names the variable and its type.
        """
        optional = names.perhaps | (names.needed & names.bound)
        packs: dict[frozenset[str], tuple[Pack, dict[str, _Known]]] = {}
        chosen = {}
        for rank in ranks:
            known = self._known.get(rank, {})
            missing = frozenset(self._missing(names.needed | names.perhaps, known))
            if missing not in packs:
                packs[missing] = self._pack(missing, optional, known)
            chosen[rank] = missing
        filled = [missing for missing in packs if missing]
        try:
            packed = dict(zip(filled, finish([packs[m][0] for m in filled]), strict=True))
        except MemoryError as error:
            raise AccelnbError(f"the notebook's values cannot be sent: {error}") from error
        for rank, missing in chosen.items():
            known = self._known.setdefault(rank, {})
            self._known_before[rank] = dict(known)
            known.update(packs[missing][1])
        self._bound_to = {name: id(value) for name, value in self._namespace.items()}
        self._rebound = set()
        return {rank: packed.get(missing) for rank, missing in chosen.items()}

    def holds_already(self, name: str, ranks: Iterable[int]) -> None:
        """Take note that these ranks have the value that `name` has in the notebook now."""
        for rank in ranks:
            self._known.setdefault(rank, {})[name] = _Known.of(self._namespace[name])

    def _missing(self, names: Iterable[str], known: Mapping[str, _Known]) -> set[str]:
        missing: set[str] = set()
        seen: set[str] = set()
        to_see = list(names)
        while to_see:
            name = to_see.pop()
            if name in seen or not self._is_users(name):
                continue
            seen.add(name)
            had = known.get(name)
            if had is not None and had.still(self._namespace[name]):
                to_see += had.uses
            else:
                missing.add(name)
        return missing

    def _is_users(self, name: str) -> bool:
        if name not in self._namespace or name in RANK_NAMES or name.startswith("__"):
            return False
        return name not in self._hidden or self._hidden[name] is not self._namespace[name]

    def _pack(
        self, names: frozenset[str], optional: frozenset[str], known: Mapping[str, _Known]
    ) -> tuple[Pack, dict[str, _Known]]:
        names = frozenset(n for n in names if n not in optional or self._refusal(n) is None)
        pack = Pack(self._namespace)
        sent: set[str] = set()
        more = set(names)
        while more:
            values = {name: self._namespace[name] for name in sorted(more)}
            try:
                pack.add(values)
            except Exception as error:
                for name in values:
                    if (refusal := self._refusal(name)) is not None:
                        raise self._cannot_send(name, refusal) from None
                raise AccelnbError(f"the notebook's values cannot be sent: {error}") from error
            sent |= more
            more = self._missing(pack.globals_used, known) - sent
        uses = pack.globals_used
        return pack, {n: _Known.of(self._namespace[n], uses) for n in sent}

    def _refusal(self, name: str) -> Exception | None:
        """Return why a variable cannot be serialized, or None if it can."""
        try:
            Pack(self._namespace).add(self._namespace[name])
        except Exception as error:
            return error
        return None

    def _cannot_send(self, name: str, refusal: Exception) -> CannotSend:
        return CannotSend(
            f"the cell uses {name}, a {type(self._namespace[name]).__name__}, which cannot be "
            f"sent to the ranks ({refusal}); create it inside the cell instead"
        )


class Sources:
    """The text of the notebook's cells, so that a rank's traceback can show their lines."""

    def __init__(self) -> None:
        self._sent: dict[int, set[tuple[str, int]]] = {}

    def forget(self, ranks: Iterable[int]) -> None:
        for rank in ranks:
            self._sent.pop(rank, None)

    def for_rank(self, rank: int, cells: Mapping[str, int]) -> dict[str, tuple[int, str]]:
        """Return the cells that `rank` was not sent: file name -> (cell number, text)."""
        sent = self._sent.setdefault(rank, set())
        new = [(name, number) for name, number in cells.items() if (name, number) not in sent]
        sent.update(new)
        return {
            name: (number, "".join(linecache.cache[name][2]))  # type: ignore[index]
            for name, number in new
            if name in linecache.cache and len(linecache.cache[name]) == 4
        }


def _content(value: Any) -> bytes | None:
    """Return a digest of a small plain container, None for any other value."""
    if type(value) not in (dict, list, set) or len(value) > _COMPARED_ITEMS:
        return None
    pack = Pack(None)
    try:
        pack.add(value)
    except Exception:
        return None  # the value itself is refused where it is sent
    return pack.digest() if pack.size() <= _COMPARED_BYTES else None
