"""What statements do to what is there already: which objects they change, which settings."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from accelnb.export.exploring import Imported
from accelnb.export.finding import OF_SCOPE, Finder
from accelnb.export.functions import Function, Functions


@dataclass(frozen=True)
class Effect:
    """What a statement does beside binding names.

    Attributes
    ----------
    changes : frozenset of str
        Names whose values it may change in place, or bind anew by a function that it calls.
    surely : frozenset of str
        Of these, what its text says: an assignment to a part, a method such as ``append``.
    holds : mapping
        For a name that it binds or changes, the names whose values become a part of it, or of
        whose values it becomes a part.
    is_setting : bool
        Whether it changes what all code shares: the environment, a library, random seeds.
    seeds : bool
        Whether it seeds random numbers.
    settings : frozenset of str
        Imported names of which it changes a part, ``os`` for ``os.environ["A"] = "1"``.
    writes : bool
        Whether it changes files.
    draws_numbers : bool
        Whether it may draw random numbers of the process.
    """

    changes: frozenset[str] = frozenset()
    surely: frozenset[str] = frozenset()
    holds: Mapping[str, frozenset[str]] = field(default_factory=dict)
    is_setting: bool = False
    seeds: bool = False
    settings: frozenset[str] = frozenset()
    writes: bool = False
    draws_numbers: bool = False


NO_EFFECT = Effect()


class Effects:
    """Finds the effects of statements, also through the functions and classes of the notebook."""

    def __init__(self, nodes: Sequence[ast.stmt], imported: Imported) -> None:
        self._imported = imported
        self._functions = Functions(nodes)
        self._settle()

    def of(self, node: ast.stmt, *, is_shown: bool) -> Effect:
        """Return what a statement at the top of a cell does.

        Parameters
        ----------
        is_shown
            Whether it is the last of its cell, whose value the notebook shows.
        """
        found = Finder(self._functions, self._imported)
        found.read([node], top=node, is_shown=is_shown)
        changed, surely = found.closed(found.changed), found.closed(found.surely)
        notebooks = frozenset(n for n in changed | found.rebound if self._is_notebooks(n))
        return Effect(
            changes=notebooks,
            surely=notebooks & (surely | found.rebound),
            holds={name: frozenset(held) for name, held in found.holds.items()},
            is_setting=found.is_setting or any(map(self._is_shared, surely)),
            seeds=found.seeds,
            settings=frozenset(filter(self._is_shared, surely | found.settings)),
            writes=found.writes,
            draws_numbers=found.draws_numbers,
        )

    def called(self, function: ast.expr) -> list[Function]:
        """Return the functions of the notebook that a call of an expression may run."""
        return self._functions.called(function, self._imported)

    def _is_notebooks(self, name: str) -> bool:
        return name not in self._imported and name not in OF_SCOPE

    def _is_shared(self, name: str) -> bool:
        return not self._is_notebooks(name) and not self._imported.is_drawing(name)

    def _settle(self) -> None:
        """Find what each function does, until what the functions that it calls do is in it."""
        for _ in range(len(self._functions.all) + 1):
            self._functions.note_returned()
            before = [function.summary() for function in self._functions.all]
            for function in self._functions.all:
                self._sum_up(function)
            if before == [function.summary() for function in self._functions.all]:
                return

    def _sum_up(self, function: Function) -> None:
        found = Finder(self._functions, self._imported)
        found.read_function(function.node)
        changed, surely = found.closed(found.changed), found.closed(found.surely)
        own, local = {*function.parameters, *found.inner}, function.local
        function.changed_parameters = frozenset(changed & own)
        function.surely_changed_parameters = frozenset(surely & own)
        function.changes = frozenset(n for n in changed - local if self._is_notebooks(n))
        function.surely = frozenset(n for n in surely - local if self._is_notebooks(n))
        function.rebinds = frozenset(found.rebound | function.declared)
        function.is_setting = found.is_setting or any(map(self._is_shared, surely - local))
        function.seeds = found.seeds
        function.settings = frozenset(filter(self._is_shared, surely - local | found.settings))
        function.writes = found.writes
        function.draws_numbers = found.draws_numbers
        returned = found.closed(found.returned)
        function.returns = frozenset(returned - local)
        function.returns_given = bool(returned & own)
