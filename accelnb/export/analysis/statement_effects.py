"""What the statements of a notebook do, also through the functions and classes they call."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from accelnb.export.analysis.effect import Effect
from accelnb.export.analysis.effect_reader import EffectReader
from accelnb.export.analysis.functions import Function, Functions
from accelnb.export.analysis.imported_names import Imported
from accelnb.export.analysis.value_sources import GIVEN


class Effects:
    """Finds the effects of statements, also through the functions and classes of the notebook."""

    def __init__(self, nodes: Sequence[ast.stmt], imported: Imported) -> None:
        self._imported = imported
        self._functions = Functions(nodes)
        for _ in range(len(self._functions.all) + 1):  # until it has what those it calls do, too
            self._functions.note_returned()
            is_new = [self._learn(function) for function in self._functions.all]
            if not any(is_new):
                return

    def of(self, node: ast.stmt, *, is_shown: bool) -> Effect:
        """Return what a statement at the top of a cell does.

        Parameters
        ----------
        is_shown
            Whether it is the last of its cell, whose value the notebook shows.
        """
        found = EffectReader(self._functions, self._imported)
        found.read([node], top=node, is_shown=is_shown)
        effect = found.effect()
        effect.change(set(filter(found.is_notebooks, effect.rebinds)), surely=True)
        return effect

    def called(self, function: ast.expr) -> list[Function]:
        """Return the functions of the notebook that a call of an expression may run."""
        return self._functions.called(function, self._imported)

    def _learn(self, function: Function) -> bool:
        """Find what a function does by what is known of others; return whether that is new."""
        found = EffectReader(self._functions, self._imported)
        found.read_function(function.node)
        given, known = {*function.parameters, *found.inner}, function.known
        function.effect = found.effect(function.local)
        function.effect.rebinds |= function.declared
        function.effect.holds = set()
        function.changed_parameters = found.closed(found.done.changes) & given
        function.surely_changed_parameters = found.closed(found.done.surely) & given
        returned = found.closed(found.returned)
        function.returns = returned - function.local | ({GIVEN} if returned & given else set())
        return function.known != known
