"""What a cell takes from the notebook to the ranks.

A variable is sent to a rank when a cell there first needs it, and again when the notebook binds
it anew or changes its value in place. What a rank's cells assign stays theirs until then.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from accelnb.engine.serialization.module_objects import Origin
from accelnb.engine.serialization.pack import Finish, Pack, Packed, finished
from accelnb.errors import AccelnbError
from accelnb.jupyter.cell_names import CellNames
from accelnb.notebook.values.comparison import Comparison, Known, Lacking, OnRank, over_builtins
from accelnb.notebook.values.fingerprint import Reading, can_change
from accelnb.notebook.values.module_objects import Imports

# Every rank has these of its own: the notebook's are never sent over them.
RANK_NAMES = frozenset({"rank", "local_rank", "world_size", "device"})


class CannotSend(AccelnbError):
    """A variable that a cell needs cannot be serialized. Nothing was sent."""


@dataclass(frozen=True)
class _Sending:
    """A pack on its way, and what a rank has when it is there."""

    pack: Pack
    names: dict[str, Known]
    classes: dict[type, bytes | None]
    imports: dict[Origin, bytes | None]
    deleted: frozenset[str]

    def note_in(self, has: OnRank) -> None:
        has.names.update(self.names)
        has.classes.update(self.classes)
        has.imports.update(self.imports)
        has.over_builtins |= over_builtins(self.names)
        has.over_builtins -= self.deleted


class Capture:
    """Keeps what each rank of a group knows of the notebook.

    Parameters
    ----------
    namespace
        The notebook's variables.
    hidden
        Names in it that are IPython's own, never sent.
    imports
        What its import statements bound.
    """

    def __init__(
        self, namespace: dict[str, Any], hidden: Mapping[str, Any], imports: Imports
    ) -> None:
        self._namespace = namespace
        self._hidden = hidden
        self._imports = imports
        self._ranks: dict[int, OnRank] = {}
        self._ranks_before: dict[int, OnRank] = {}  # the newest pack for each rank
        self._bound_to: dict[str, int] = {}  # the identities of its values at the newest pack
        self._rebound: set[str] = set()  # names bound anew since then
        self._said: set[str] = set()
        self._notes: list[str] = []

    def forget(self, ranks: Iterable[int]) -> None:
        """Take note that these ranks are new and know nothing."""
        for rank in ranks:
            self._ranks.pop(rank, None)
            self._ranks_before.pop(rank, None)

    def not_received(self, ranks: Iterable[int]) -> None:
        """Take note that the newest pack did not get to these ranks."""
        for rank in ranks:
            self._ranks[rank] = self._ranks_before.get(rank, OnRank()).copy()

    def send_again(self, names: Iterable[str]) -> None:
        """Take note that these names are to be sent, whatever the ranks have."""
        again = frozenset(names)
        self._rebound |= again
        self._drop(again)

    def assigned(self, names: Mapping[int, Iterable[str]]) -> None:
        """Take note of what ranks assigned in the newest cell: their own values count now."""
        reading = Reading(self._namespace)
        known: dict[str, Known] = {}
        for rank, own in names.items():
            has = self._ranks.setdefault(rank, OnRank())
            for name in own:
                has.over_builtins.discard(name)
                if name in self._rebound or name not in self._namespace:
                    continue
                value = self._namespace[name]
                if id(value) != self._bound_to.get(name):
                    continue
                if name not in known:
                    then = reading.of(value) if can_change(value) else None
                    known[name] = Known.of(value, then, is_own=True, seen_at=self._imports.moment)
                has.names[name] = known[name]

    def let_go_of_deleted(self) -> None:
        """Hold no value of a name that the notebook has deleted."""
        known = {name for has in self._every_rank() for name in has.names}
        self._drop(known - self._namespace.keys())

    def holds_already(self, name: str, ranks: Iterable[int]) -> None:
        """Take note that these ranks have the value that `name` has in the notebook now."""
        for rank in ranks:
            known = Known.of(self._namespace[name], None)
            self._ranks.setdefault(rank, OnRank()).names[name] = known

    def take_notes(self) -> list[str]:
        """Return what the user is to be told of the newest pack."""
        notes, self._notes = self._notes, []
        return notes

    def is_users(self, name: str) -> bool:
        """Return whether the notebook has a variable of this name that ranks may be sent."""
        if name not in self._namespace or name in RANK_NAMES or name.startswith("__"):
            return False
        return name not in self._hidden or self._hidden[name] is not self._namespace[name]

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
        now = Comparison(self._namespace, self._imports, self.is_users)
        sendings: dict[Lacking, _Sending] = {}
        chosen: dict[int, Lacking] = {}
        for rank in ranks:
            has = self._ranks.setdefault(rank, OnRank())
            now.note_edits(has)
            lacking = now.lacking(names.needed | names.perhaps, has)
            if lacking not in sendings:
                sendings[lacking] = self._sending(lacking, optional, has, now)
            chosen[rank] = lacking
        filled = [lacking for lacking in sendings if lacking]
        try:
            packs = finish([sendings[lacking].pack for lacking in filled])
        except MemoryError as error:
            raise AccelnbError(f"the notebook's values cannot be sent: {error}") from error
        packed = dict(zip(filled, packs, strict=True))
        for rank, lacking in chosen.items():
            self._ranks_before[rank] = self._ranks[rank]
            if lacking:
                self._ranks_before[rank] = self._ranks[rank].copy()
                sendings[lacking].note_in(self._ranks[rank])
        there = self._namespace.copy()  # threads of the notebook may bind names meanwhile
        self._bound_to = dict(zip(there, map(id, there.values()), strict=True))
        self._rebound = set()
        unsaid = [text for text in now.limits.values() if text not in self._said]
        self._notes = [*now.changes.values(), *unsaid]
        self._said.update(unsaid)
        return {rank: packed.get(lacking) for rank, lacking in chosen.items()}

    def _every_rank(self) -> list[OnRank]:
        return [*self._ranks.values(), *self._ranks_before.values()]

    def _drop(self, names: Iterable[str]) -> None:
        for has in self._every_rank():
            for name in names:
                has.names.pop(name, None)

    def _sending(
        self, lacking: Lacking, optional: frozenset[str], has: OnRank, now: Comparison
    ) -> _Sending:
        refused = {name for name in lacking.names & optional if self._refusal(name, now)}
        lacking -= Lacking(frozenset(refused))
        pack = Pack(self._namespace, imported=now.imported)
        sent = Lacking()
        while lacking:
            self._add(pack, lacking, now)
            sent |= lacking
            lacking = now.lacking(pack.globals_used, has) - sent
        names = {name: self._known(name, pack, now) for name in sent.names}
        thens = [known.then for known in names.values() if known.then is not None]
        classes = now.reading.with_theirs(
            [*sent.classes, *(cls for then in thens for cls in then.classes)]
        )
        return _Sending(
            pack,
            names,
            {cls: then.digest for cls, then in classes.items()},
            {origin: now.state_of(origin) for origin in sent.origins},
            sent.deleted,
        )

    def _add(self, pack: Pack, lacking: Lacking, now: Comparison) -> None:
        values = {name: self._namespace[name] for name in sorted(lacking.names)}
        # Code that runs while objects are rebuilt, as in __setstate__, finds what it uses.
        first = {name: value for name, value in values.items() if _runs_no_code(value)}
        try:
            pack.add(first, lacking.deleted, now.renewals(lacking))
            pack.add({name: value for name, value in values.items() if name not in first})
        except Exception as error:
            for name in values:
                if (refusal := self._refusal(name, now)) is not None:
                    raise self._cannot_send(name, refusal) from None
            raise AccelnbError(f"the notebook's values cannot be sent: {error}") from error

    def _known(self, name: str, pack: Pack, now: Comparison) -> Known:
        value, then = self._namespace[name], now.now_of(name)
        is_read = then is not None and then.digest is not None and not then.in_part
        uses = then.uses if then is not None and is_read else pack.globals_used
        return Known.of(value, then, uses, seen_at=self._imports.moment)

    def _refusal(self, name: str, now: Comparison) -> Exception | None:
        """Return why a variable cannot be serialized, or None if it can."""
        try:
            Pack(self._namespace, imported=now.imported).add({name: self._namespace[name]})
        except Exception as error:
            return error
        return None

    def _cannot_send(self, name: str, refusal: Exception) -> CannotSend:
        return CannotSend(
            f"the cell uses {name}, a {type(self._namespace[name]).__name__}, which cannot be "
            f"sent to the ranks ({refusal}); create it inside the cell instead"
        )


def _runs_no_code(value: Any) -> bool:
    return issubclass(type(value), type | types.FunctionType) or not can_change(value)
