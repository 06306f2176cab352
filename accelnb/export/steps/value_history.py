"""Which steps of a notebook change a value after it was bound."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from accelnb.export.steps.program import OF_A_RANK, Program, Step

_Value = tuple[Step | None, str]  # what a step bound to a name; None if it is not known which
_Changers = dict[_Value, list[Step]]


class Values:
    """The values of a notebook: by which step a name has one, and which steps change it.

    A value is what a step bound to a name. A step that changes ``c`` after ``c = cfg.model``
    changes the value of ``cfg`` too, and one that changes ``cfg`` after ``run.cfg = cfg``
    that of ``run``.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self.binders: dict[str, list[Step]] = defaultdict(list)
        for step in program.steps:
            for name in step.binds:
                self.binders[name].append(step)
        self._changed_by: _Changers = defaultdict(list)
        self._changed_on_ranks: _Changers = defaultdict(list)
        self._parts: dict[_Value, set[_Value]] = defaultdict(set)
        for step in program.steps:
            if step.on_ranks:
                self._note(step, step.effect.surely, self._changed_on_ranks)
            elif not step.brought:
                self._note(step, step.changes, self._changed_by)
            self._note_parts(step)

    def reaching(self, name: str, at: int, on_ranks: bool) -> list[Step]:
        """Return the steps whose value `name` may have at a position, the latest first."""
        found = []
        for step in reversed(self.binders[name]):
            if step.position >= at or not _sees(on_ranks, step, name):
                continue
            found.append(step)
            if name in step.surely:
                break
        return found

    def changers(self, name: str, binder: Step | None) -> list[Step]:
        """Return the ordinary steps that may change the value which a step bound to a name.

        Parameters
        ----------
        binder
            None if it is not known what bound it, as after ``from x import *``.
        """
        return self._changed_by[binder, name]

    def changers_on_ranks(self, name: str, binder: Step) -> list[Step]:
        """Return the steps of jobs that change the value which a step bound to a name."""
        return self._changed_on_ranks[binder, name]

    def _note(self, step: Step, names: Iterable[str], changed_by: _Changers) -> None:
        """Note a step with each value that it may change."""
        seen: set[_Value] = set()
        waiting = [value for name in sorted(names) for value in self._values_of(name, step)]
        while waiting:
            value = waiting.pop()
            if value not in seen:
                seen.add(value)
                changed_by[value].append(step)
                waiting += self._parts[value]

    def _note_parts(self, step: Step) -> None:
        """Note the values that a step makes a part of another."""
        for name, other in step.effect.holds:
            parts = set(self._values_of(other, step)) if other != name else set()
            if name in step.binds:
                self._parts[step, name] |= parts
            if name in step.changes:
                for value in self._values_of(name, step):
                    self._parts[value] |= parts

    def _values_of(self, name: str, step: Step) -> list[_Value]:
        """Return the values that a name may have before a step."""
        binders = self.reaching(name, step.position, step.on_ranks)
        return [(binder, name) for binder in binders or [None]]


def _sees(on_ranks: bool, step: Step, name: str) -> bool:
    if not on_ranks:
        return not step.on_ranks
    # What was pulled is not sent back, and a rank's own numbers are never replaced.
    return step.on_ranks or (step.brought != "pull" and name not in OF_A_RANK)
