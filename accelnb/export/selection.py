"""Which steps of a notebook its script needs: by the names that the distributed cells use."""

from __future__ import annotations

import ast
import builtins
import re
from collections import defaultdict
from collections.abc import Mapping

from accelnb.export.exploring import (
    computes,
    draws,
    is_call_of,
    is_effect,
    is_function,
    is_report,
    is_setting,
    last_part,
)
from accelnb.export.notebook_file import Cell, ExportError
from accelnb.export.program import OF_A_RANK, Program, Step

_ALWAYS_THERE = frozenset(dir(builtins)) | {"display", "get_ipython"}
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
        What the notebook does.
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
        self._program = program
        self._elsewhere = elsewhere
        self._steps = program.steps
        self._binders: dict[str, list[Step]] = defaultdict(list)
        self._changers: dict[str, list[Step]] = defaultdict(list)
        for step in self._steps:
            for name in step.binds:
                self._binders[name].append(step)
            for name in step.changes:
                self._changers[name].append(step)
        self.kept: set[Step] = set()
        self.reports: set[Step] = set()
        self.pulled: dict[Step, set[str]] = defaultdict(set)
        self.used: dict[Step, set[str]] = defaultdict(set)
        self.of_rank: set[str] = set()
        self._seen: set[tuple[str, int, bool]] = set()
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
        last = self._program.last_phase
        for step in self._steps:
            if not step.brought and (step.phase or self._is_effect_for_job(step)):
                self._keep(step)
        reports = self._reports()
        self.reports = set(reports)
        for step in reports:
            self._keep(step)
        last_report = max((step.position for step in self.reports), default=-1)
        for step in self._steps:
            if last < step.position < last_report and _seeds(step, self._program):
                self._keep(step)
        for name, (step, said) in self._missing_later.items():
            if name not in self._found_later:
                raise self._not_bound(name, step, said)
        self._check_two_values()
        self._leave_out_idle_seeds()

    # ---- names ----

    def _keep(self, step: Step) -> None:
        if step in self.kept:
            return
        if step.no_form:
            raise ExportError(f"{step.statement.place()}: {step.no_form}")
        self.kept.add(step)
        for name in sorted(step.reads):
            if not self._need(name, step, step.position) and name in step.names.unbound:
                raise self._not_bound(name, step, "")

    def _need(self, name: str, reader: Step, at: int) -> bool:
        """Keep what binds `name` for a reader at a position; return whether there is any."""
        key = (name, at, reader.on_ranks)
        found = self._reaching(name, at, reader.on_ranks)
        if found and found[0].brought == "pull":
            self.pulled[reader].add(name)
        if key in self._seen:
            return True
        if not found and not self._is_there(name, reader):
            return False
        self._seen.add(key)
        for step in found:
            self._keep(step)
            self.used[step].add(name)
            self._keep_changes(name, step, at)
            for later in sorted(self._latent_of(step)):
                if self._need(later, reader, at):
                    self._found_later.add(later)
                else:
                    said = f" (in what it calls {name})"
                    self._missing_later.setdefault(later, (reader, said))
        return True

    def _is_there(self, name: str, reader: Step) -> bool:
        is_own = reader.on_ranks or name == "device" or not self._binders[name]
        if name in OF_A_RANK and is_own and (name != "mesh" or self._has_mesh):
            self.of_rank.add(name)
            return True
        if name in _ALWAYS_THERE or (name.startswith("__") and name.endswith("__")):
            return True
        if name in self._program.imports:  # what a magic became needs it
            return True
        # `from x import *` binds names that nobody can know here.
        return bool(stars := self._binders["*"]) and [self._keep(star) for star in stars] != []

    @property
    def _has_mesh(self) -> bool:
        return any(phase.config.mesh for phase in self._program.phases)

    def _reaching(self, name: str, at: int, on_ranks: bool) -> list[Step]:
        """Return the steps whose value `name` may have at a position, the latest first."""
        found = []
        for step in reversed(self._binders[name]):
            if step.position >= at or not self._sees(on_ranks, step, name):
                continue
            found.append(step)
            if name in step.surely:
                break
        return found

    def _sees(self, on_ranks: bool, step: Step, name: str) -> bool:
        if not on_ranks:
            return not step.on_ranks
        # What was pulled is not sent back, and a rank's own numbers are never replaced.
        return step.on_ranks or (step.brought != "pull" and name not in OF_A_RANK)

    def _keep_changes(self, name: str, binder: Step, at: int) -> None:
        end = max(at, self._program.last_phase)
        again = [s.position for s in self._binders[name] if not s.on_ranks and name in s.surely]
        end = min([end, *(position for position in again if position > binder.position)])
        for step in self._changers[name]:
            if is_function(binder.statement) and is_call_of(step.statement.node, name):
                continue
            is_between = binder.position < step.position < end and not step.no_form
            if is_between and not draws(step.statement, self._program.imported):
                self._keep(step)

    def _latent_of(self, step: Step) -> frozenset[str]:
        """Return the names that functions in the step's value read when they are called."""
        if step not in self._latent:
            self._latent[step] = step.later  # also ends the search in a circle
            names = set(step.later)
            for name in step.reads:
                for binder in self._reaching(name, step.position, step.on_ranks):
                    names |= self._latent_of(binder)
            self._latent[step] = frozenset(names)
        return self._latent[step]

    # ---- what is kept although no job needs it ----

    def _is_effect_for_job(self, step: Step) -> bool:
        imported = self._program.imported
        if step.position > self._program.last_phase or step.no_form:
            return False
        return is_effect(step.statement, imported) and not draws(step.statement, imported)

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
                if is_ours and not draws(step.statement, self._program.imported):
                    found.append(step)
            else:
                of_ranks -= step.surely
        return found

    def _leave_out_idle_seeds(self) -> None:
        """Leave out a seed after which the notebook draws nothing."""
        imported = self._program.imported
        ordinary = [s for s in self.kept if not (s.on_ranks or s.phase or s.brought)]
        seeds = {s for s in ordinary if _seeds(s, self._program)}
        drawing = [
            s.position
            for s in ordinary
            if s not in seeds and not s.statement.is_definition and computes(s.statement, imported)
        ]
        self.kept -= {s for s in seeds if s.position > max(drawing, default=-1)}

    # ---- what goes wrong ----

    def _check_two_values(self) -> None:
        """Refuse a name that had one value in the notebook and another on the ranks."""
        for step in self.kept:
            if step.on_ranks or step.brought:
                continue
            for name in step.reads - self.pulled[step]:
                for binder in self._reaching(name, step.position, on_ranks=False)[:1]:
                    for other in self._binders[name]:
                        between = binder.position < other.position < step.position
                        if other.on_ranks and between:
                            raise ExportError(
                                f"{step.statement.place()}: {name} is the notebook's here, but "
                                f"{other.statement.place()} gives it another value on the ranks: "
                                "rename one of them, or bring the ranks' back with --pull"
                            )

    def _not_bound(self, name: str, step: Step, said: str) -> NotBound:
        where = f"{step.statement.place()}: {name}{said}"
        reader = step.statement.cell
        if _OF_IPYTHON.fullmatch(name):
            return NotBound(f"{where} exists only in IPython: bind a name", reader, None)
        binders = [s for s in self._binders[name] if step.on_ranks or not s.on_ranks]
        if self_binding := [s for s in binders if s.statement.cell is reader]:
            text = f"{where} has no value before {self_binding[0].statement.place()} changes it"
            return NotBound(f"{text}: give its first value in a cell above", reader, None)
        if binders:
            other = binders[0].statement
            text = f"{where} is bound only by {other.place()}, which ran later"
            return NotBound(f"{text}: bind it in a cell above", reader, other.cell)
        if on_ranks := [s for s in self._binders[name] if s.on_ranks]:
            other = on_ranks[0].statement
            text = f"{where} is bound only on the ranks, by {other.place()}"
            return NotBound(f"{text}: bring it back with --out or --pull", reader, None)
        why = self._elsewhere.get(name) or (
            "is bound in no cell (was its cell deleted or edited?): put the cell that binds it back"
        )
        return NotBound(f"{where} {why}", reader, None)


def _seeds(step: Step, program: Program) -> bool:
    node = step.statement.node
    if step.brought or not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return False
    return is_setting(node.value, program.imported) and "seed" in last_part(node.value)
