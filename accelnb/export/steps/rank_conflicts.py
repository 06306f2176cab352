"""What has one value in the notebook and another on its ranks: a script has only one of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from accelnb.export.cells.notebook_file import ExportError
from accelnb.export.cells.syntax import base_name, executed
from accelnb.export.steps.program import Step
from accelnb.export.steps.selection import Selection

_LOOPS = (ast.For, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def check_sides(selection: Selection) -> None:
    """Refuse a name that had one value in the notebook and another on the ranks.

    Raises
    ------
    ExportError
        An ordinary step or a launch reads a value which the ranks changed for themselves.
    """
    kept = [step for step in selection.program.steps if step in selection.kept]
    for step in kept:
        if not (step.on_ranks or step.brought):
            _check_ordinary(step, selection)
        if step.calls:
            _check_launch(step, kept, selection)


def _check_ordinary(step: Step, selection: Selection) -> None:
    values = selection.values
    called = {base_name(n.func) for n in executed([step.statement.node]) if isinstance(n, ast.Call)}
    for name in sorted(selection.read_by(step, called) - selection.pulled[step]):
        for binder in values.reaching(name, step.position, on_ranks=False)[:1]:
            others = [o for o in values.binders[name] if o.on_ranks]
            if not step.statement.is_definition and step.position < selection.program.last_phase:
                others += values.changers_on_ranks(name, binder)
            for other in others:
                if binder.position < other.position < step.position:
                    raise ExportError(
                        f"{step.statement.place()}: {name} is the notebook's here, but "
                        f"{other.statement.place()} gives it another value on the ranks: "
                        "rename one of them, or bring the ranks' back with --pull"
                    )


def _check_launch(step: Step, kept: list[Step], selection: Selection) -> None:
    """Refuse what a launched function changes, if it is read later: ranks had copies of it."""
    changed = selection.program.launched_changes(step)
    for name in sorted(changed):
        binders = selection.values.reaching(name, step.position, on_ranks=False)
        later = [other for other in kept if other.position > step.position]
        for other in [*_again(step), *later]:
            if other.brought or name not in selection.read_by(other, other.reads):
                continue
            now = selection.values.reaching(name, other.position, other.on_ranks)
            if any(binder in now for binder in binders):
                where = "the next launch" if other is step else other.statement.place()
                raise ExportError(
                    f"{step.statement.place()}: what it launches changes {name} on its ranks "
                    f"only, and {where} reads the notebook's own: have the function make it, or "
                    "return what it computes"
                )


def _again(step: Step) -> Iterator[Step]:
    """Yield a step that launches in a loop, for it comes after itself."""
    nodes = ast.walk(step.statement.node)
    loops = [node for node in nodes if isinstance(node, _LOOPS)]
    if any(call in ast.walk(loop) for loop in loops for call in step.calls):
        yield step
