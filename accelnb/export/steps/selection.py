"""Which steps of a notebook its script needs: by the names that the distributed cells use."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from accelnb.export.analysis.call_kinds import computes, draws, is_report, is_setting
from accelnb.export.analysis.effects import OF_SCOPE
from accelnb.export.cells.notebook_file import Cell, ExportError
from accelnb.export.cells.syntax import BUILTINS, last_part
from accelnb.export.steps.program import OF_A_RANK, Program, Step
from accelnb.export.steps.value_history import Values

_ALWAYS_THERE = BUILTINS | {"display", "get_ipython"}
_OF_IPYTHON = re.compile(r"_+\d*|_i+\d*|In|Out|exit|quit|_dh|_ih|_oh")


class NotBound(ExportError):
    """A step reads a name that no step before it binds.

    Attributes
    ----------
    reader, binder : Cell
        The cell that reads it, and a cell that binds it later.
    """

    def __init__(self, text: str, reader: Cell, binder: Cell | None) -> None:
        super().__init__(text)
        self.reader = reader
        self.binder = binder


class Selection:
    """The steps of a program that its jobs need, from the jobs backwards.

    Parameters
    ----------
    program
        What the notebook does; it stays at hand as an attribute.
    elsewhere
        Names that no cell binds any more, or yet, and where they come from.

    Attributes
    ----------
    kept : set of Step
        What the script has.
    reports : set of Step
        Of these, what only prints or saves what the ranks computed.
    pulled : dict
        For a step, the names in it that are sequences brought back by ``--pull``.
    used : dict
        For a step, the names of it that other steps read.
    of_rank : set of str
        Names such as ``rank`` that are used as the process's own.
    """

    def __init__(self, program: Program, elsewhere: Mapping[str, str]) -> None:
        self.program = program
        self._elsewhere = elsewhere
        self._steps = program.steps
        self._last = program.last_phase
        self.values = Values(program)
        self._binders = self.values.binders
        self.kept: set[Step] = set()
        self.reports: set[Step] = set()
        self.pulled: dict[Step, set[str]] = defaultdict(set)
        self.used: dict[Step, set[str]] = defaultdict(set)
        self.of_rank: set[str] = set()
        self._unread: list[Step] = []
        self._seen: set[tuple[str, int, bool]] = set()
        self._sources: dict[tuple[str, int, bool], list[Step]] = {}
        self._changes: dict[tuple[str, Step | None, int], list[Step]] = {}
        self._latent: dict[Step, frozenset[str]] = {}
        self._found_later: set[str] = set()
        self._missing_later: dict[str, tuple[Step, str]] = {}

    def run(self) -> None:
        """Find what is needed.

        Raises
        ------
        ExportError
            Something that is needed cannot be had in a script.
        """
        for step in self._steps:
            if not step.brought and (step.phase or self._is_effect_for_job(step)):
                self._keep(step)
                self._keep_latent(step)
        self._follow()
        reports = self._reports()
        self.reports = set(reports)
        for step in reports:
            self._keep(step)
        last_report = max((step.position for step in self.reports), default=-1)
        for step in self._steps:
            if self._last < step.position < last_report and _seeds(step, self.program):
                self._keep(step)
        self._keep_draws()
        self._follow()
        for name, (step, said) in self._missing_later.items():
            if name not in self._found_later:
                raise self._not_bound(name, step, said)
        self._leave_out_idle_seeds()

    # ---- names ----

    def _keep(self, step: Step) -> None:
        if step in self.kept:
            return
        if step.no_form:
            raise ExportError(f"{step.statement.place()}: {step.no_form}")
        self.kept.add(step)
        self._unread.append(step)

    def _follow(self) -> None:
        """Keep what the kept steps read, and what those read, until all is there."""
        while self._unread:
            step = self._unread.pop()
            for name in sorted(step.reads):
                if not self._need(name, step, step.position) and name in step.names.unbound:
                    raise self._not_bound(name, step, "")

    def _need(self, name: str, reader: Step, at: int) -> bool:
        """Keep what binds `name` for a reader at a position; return whether there is any.

        Also what the functions in its value read when they are called.
        """
        is_there = self._keep_value(name, reader, at)
        waiting = self._functions_read(name, reader, at) if is_there else []
        while waiting:
            later, caller = waiting.pop()
            if (later, at, reader.on_ranks) in self._seen:
                self._found_later.add(later)
            elif self._keep_value(later, reader, at):
                self._found_later.add(later)
                waiting += self._functions_read(later, reader, at)
            else:
                said = f" (in what it calls {caller})"
                self._missing_later.setdefault(later, (reader, said))
        return is_there

    def _keep_value(self, name: str, reader: Step, at: int) -> bool:
        found = self.values.reaching(name, at, reader.on_ranks)
        if found and found[0].brought == "pull":
            self.pulled[reader].add(name)
        if (name, at, reader.on_ranks) in self._seen:
            return True
        if not found and not self._is_there(name, reader):
            return False
        self._seen.add((name, at, reader.on_ranks))
        changers = [] if found else self._keep_changes(name, None, at)
        for step in found:
            self._keep(step)
            self.used[step].add(name)
            changers += self._keep_changes(name, step, at)
        self._sources[name, at, reader.on_ranks] = [*found, *changers]
        return True

    def _functions_read(self, name: str, reader: Step, at: int) -> list[tuple[str, str]]:
        """Return what the functions in a name's value read, each with the name."""
        sources = self._sources.pop((name, at, reader.on_ranks), [])
        names = set().union(*map(self._latent_of, sources))
        return [(later, name) for later in sorted(names, reverse=True)]

    def _is_there(self, name: str, reader: Step) -> bool:
        is_own = reader.on_ranks or name == "device" or not self._binders[name]
        if name in OF_A_RANK and is_own and (name != "mesh" or self._has_mesh):
            self.of_rank.add(name)
            return True
        if name in _ALWAYS_THERE or (name.startswith("__") and name.endswith("__")):
            return True
        if name in self.program.imports:  # what a magic became needs it
            return True
        for binder in (unknown := self._bind_unknown_names(reader)):
            self._keep(binder)
        return bool(unknown)

    def _bind_unknown_names(self, reader: Step) -> list[Step]:
        """Return the steps before a reader that bind names which nobody can know here.

        Such as ``from x import *`` or ``globals().update(defaults)``.
        """
        in_scope = [s for s in self._steps if s.effect.settings & OF_SCOPE]
        found = [s for s in in_scope if s.position < reader.position and not s.no_form]
        return self._binders["*"] + [s for s in found if reader.on_ranks or not s.on_ranks]

    @property
    def _has_mesh(self) -> bool:
        return any(phase.config.mesh for phase in self.program.phases)

    def _keep_changes(self, name: str, binder: Step | None, at: int) -> list[Step]:
        """Keep what changes a value before the last job, or before a position; return it."""
        end = max(at, self._last)
        if (name, binder, end) in self._changes:
            return self._changes[name, binder, end]
        self._changes[name, binder, end] = found = list[Step]()
        for step in self.values.changers(name, binder):
            is_before = step.position < end and not step.no_form
            if is_before and not self._is_picture(step):
                self._keep(step)
                found += [step, *self._keep_changes_of_bound(step, at)]
        return found

    def _is_picture(self, step: Step) -> bool:
        is_sure = step in self.kept or step.effect.surely
        return not is_sure and draws(step.statement, self.program.imported)

    def _keep_changes_of_bound(self, step: Step, at: int) -> list[Step]:
        """Keep what changes what a step put somewhere: a class that it registered, say."""
        return [s for name in sorted(step.binds) for s in self._keep_changes(name, step, at)]

    def read_by(self, step: Step, called: Iterable[str]) -> frozenset[str]:
        """Return the names that a step reads, itself or in what it calls."""
        of = (self.values.reaching(name, step.position, step.on_ranks) for name in called)
        return step.reads.union(*(self._latent_of(binder) for found in of for binder in found))

    def _latent_of(self, step: Step) -> frozenset[str]:
        """Return the names that functions in the step's value read when they are called."""
        if step not in self._latent:
            self._latent[step] = step.later  # also ends the search in a circle
            names = set(step.later)
            for name in step.reads:
                for binder in self.values.reaching(name, step.position, step.on_ranks):
                    names |= self._latent_of(binder)
            self._latent[step] = frozenset(names)
        return self._latent[step]

    # ---- what is kept although no job needs it ----

    def _is_effect_for_job(self, step: Step) -> bool:
        """Return whether it changes what all code shares: a setting, a library, a file."""
        if step.on_ranks or step.position > self._last or step.no_form:
            return False
        effect = step.effect
        is_picture = draws(step.statement, self.program.imported)
        return effect.is_setting or (effect.writes and not is_picture)

    def _keep_latent(self, effect: Step) -> None:
        """Keep what a job reads when it calls the functions that a step gave to a library."""
        if effect.phase:
            return
        job = next(s for s in self._steps if s.position == self._last)
        changers = self._keep_changes_of_bound(effect, job.position)
        for name in sorted(frozenset().union(*map(self._latent_of, [effect, *changers]))):
            self._need(name, job, job.position)

    def _reports(self) -> list[Step]:
        """Return the ordinary steps that print or save what came back from the ranks."""
        of_ranks: set[str] = set()
        found = []
        for step in self._steps:
            if step.on_ranks or step.no_form:
                continue
            if step.brought or step.calls or step.reads & of_ranks:
                of_ranks |= step.binds | step.changes
                is_ours = not (step.brought or step.phase) and is_report(step.statement)
                if is_ours and not draws(step.statement, self.program.imported):
                    found.append(step)
            else:
                of_ranks -= step.surely
        return found

    def _keep_draws(self) -> None:
        """Keep what draws random numbers between a seed and something kept that draws some."""
        imported = self.program.imported
        seeded, waiting = False, list[Step]()
        for step in self._steps:
            if step.position > self._last:
                return
            if step.on_ranks or step.phase or step.brought or step.no_form:
                continue
            if step.effect.seeds:
                seeded, waiting = step in self.kept, []
            elif step in self.kept and not step.statement.is_definition:
                if seeded and computes(step.statement, imported):
                    for drawing in waiting:
                        self._keep(drawing)
                    self._follow()
                    waiting = []
            elif step.effect.draws_numbers:
                waiting.append(step)

    def _leave_out_idle_seeds(self) -> None:
        """Leave out a seed after which the notebook draws nothing."""
        imported = self.program.imported
        ordinary = [s for s in self.kept if not (s.on_ranks or s.phase or s.brought)]
        seeds = {s for s in ordinary if _seeds(s, self.program)}
        drawing = [
            s.position
            for s in ordinary
            if s not in seeds and not s.statement.is_definition
            if s.effect.draws_numbers or computes(s.statement, imported)
        ]
        self.kept -= {s for s in seeds if s.position > max(drawing, default=-1)}

    # ---- what goes wrong ----

    def _not_bound(self, name: str, step: Step, said: str) -> NotBound:
        why, binder = self._why_not_bound(name, step)
        text = f"{step.statement.place()}: {name}{said} {why}"
        return NotBound(text, step.statement.cell, binder)

    def _why_not_bound(self, name: str, step: Step) -> tuple[str, Cell | None]:
        """Return why a name has no value, and what to do; and a cell that binds it later."""
        if _OF_IPYTHON.fullmatch(name):
            return "exists only in IPython: bind a name", None
        binders = [s for s in self._binders[name] if step.on_ranks or not s.on_ranks]
        if own := [s for s in binders if s.statement.cell is step.statement.cell]:
            why = f"has no value before {own[0].statement.place()} changes it"
            return f"{why}: give its first value in a cell above", None
        if binders:
            other = binders[0].statement
            why = f"is bound only by {other.place()}, which ran later"
            return f"{why}: bind it in a cell above", other.cell
        if on_ranks := [s for s in self._binders[name] if s.on_ranks]:
            why = f"is bound only on the ranks, by {on_ranks[0].statement.place()}"
            return f"{why}: bring it back with --out or --pull", None
        if ran := self.program.scripts:
            why = f"is bound in no cell, perhaps by {', '.join(ran)}"
            return f"{why}: import it from a module, or put it into a cell", None
        why = (
            "is bound in no cell (was its cell deleted or edited?): put the cell that binds it back"
        )
        return self._elsewhere.get(name, why), None


def _seeds(step: Step, program: Program) -> bool:
    node = step.statement.node
    if step.brought or not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return False
    return is_setting(node.value, program.imported) and "seed" in last_part(node.value)
