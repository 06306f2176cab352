"""Where each kept step goes: to the top of the script, or into its main function."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from accelnb.export.analysis.imported_names import aliases
from accelnb.export.cells.hyper_parameters import Parameter, parameter_of
from accelnb.export.cells.syntax import BUILTINS, IMPORTS, assigned_name, dotted, is_literal
from accelnb.export.script_text.setting_order import (
    early_settings,
    late_imports,
    names_read_at_once,
)
from accelnb.export.steps.program import Step
from accelnb.export.steps.selection import Selection

_READS_SCOPES = ("globals", "locals", "exec", "eval")


@dataclass
class Places:
    """The steps of a script by their place, each in the order in which they ran.

    Attributes
    ----------
    shared : set of str
        Names of the main function that functions at the top read: they are ``global``.
    """

    early: list[Step] = field(default_factory=list)  # settings that imports after them see
    imports: list[Step] = field(default_factory=list)
    constants: list[Step] = field(default_factory=list)
    definitions: list[Step] = field(default_factory=list)
    parameters: dict[Step, Parameter] = field(default_factory=dict)
    main: list[Step] = field(default_factory=list)
    shared: set[str] = field(default_factory=set)


def place(selection: Selection) -> Places:
    """Decide for each kept step where it goes."""
    kept = [step for step in selection.program.steps if step in selection.kept]
    for step in _same_again(kept):
        kept.remove(step)
    bound = Counter(name for step in kept for name in step.binds if step.brought != "pull")
    changed = {name for step in kept for name in step.changes}
    declared = _declared_global(kept)
    early = early_settings(kept)
    late = late_imports(kept, early)
    top = {
        step
        for step in kept
        if not (step.brought or step in late)
        and all(bound[name] == 1 or name == "*" for name in step.binds)
        and (_is_import(step) or (_is_constant(step, changed) and not step.binds & declared))
    }
    for step in kept:
        is_import = step.statement.is_import and not (step.brought or step in late)
        if is_import and _is_same_import(step, kept):
            top.add(step)
    _add_definitions(top, kept, bound, selection)
    places = Places(early=early)
    for step in kept:
        if step in early:
            continue
        if not step.brought and (parameter := parameter_of(step.statement)):
            places.parameters[step] = parameter
            places.main.append(step)
        elif step not in top:
            places.main.append(step)
        elif step.statement.is_definition:
            places.definitions.append(step)
        elif _is_import(step):
            places.imports.append(step)
        else:
            places.constants.append(step)
    places.shared = _shared(places)
    return places


def _same_again(kept: list[Step]) -> list[Step]:
    """Return functions and classes that are there before, word for word."""
    found, before = [], {}
    for step in kept:
        if step.brought or not step.statement.is_definition or _does_something(step):
            continue
        name = min(step.binds)
        if before.get(name) == step.statement.text():
            found.append(step)
        before[name] = step.statement.text()
    return found


def _is_import(step: Step) -> bool:
    node = step.statement.node
    if isinstance(node, ast.Try | ast.If) and not step.on_ranks:
        parts = [n for n in ast.walk(node) if isinstance(n, ast.stmt)]
        is_import = any(isinstance(part, IMPORTS) for part in parts)
        return is_import and not step.names.unbound and all(map(_is_part_of_import, parts))
    return step.statement.is_import


def _is_part_of_import(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.Import | ast.ImportFrom | ast.Try | ast.If | ast.Pass)


def _is_same_import(step: Step, kept: list[Step]) -> bool:
    """Return whether all that bind its names import the same."""
    own = set(aliases(step.statement.node))
    for other in kept:
        shared = other.binds & step.binds
        if not shared or other.brought == "pull":
            continue
        if other.brought or not other.statement.is_import:
            return False
        if any(name in shared for _, name in own ^ set(aliases(other.statement.node))):
            return False
    return True


def _is_constant(step: Step, changed: set[str]) -> bool:
    assigned = assigned_name(step.statement.node)
    if assigned is None or step.on_ranks or step.phase or parameter_of(step.statement):
        return False
    _, value = assigned
    if isinstance(value, ast.Constant):
        return True
    is_empty = ast.unparse(value) in ("[]", "{}")  # these are filled later
    return is_literal(value) and not is_empty and not step.binds & changed


def _add_definitions(
    top: set[Step], kept: list[Step], bound: Counter[str], selection: Selection
) -> None:
    """Add the functions and classes that need nothing of the main function to exist."""
    above = BUILTINS | {name for step in top for name in step.binds}
    waiting = [
        step
        for step in kept
        if step.statement.is_definition
        and not (step.brought or step in top or _does_something(step))
        and not _sees_changes(step, kept, selection)
    ]
    while True:
        ready = [
            step
            for step in waiting
            if all(bound[name] == 1 for name in step.binds)
            and step.reads <= above | step.binds
            # In a distributed cell a function is nested, unless it stands for itself.
            and (not step.on_ranks or step.later <= above | step.binds)
        ]
        if not ready:
            return
        top.update(ready)
        above |= {name for step in ready for name in step.binds}
        waiting = [step for step in waiting if step not in ready]


def _does_something(step: Step) -> bool:
    """Return whether a definition does more than define: it registers, or patches."""
    return step.effect.is_setting or bool(step.effect.changes)


def _sees_changes(step: Step, kept: list[Step], selection: Selection) -> bool:
    """Return whether what a definition reads at once was changed before it: `lr=CFG.lr`."""
    before = [other for other in kept if other.position < step.position]
    settings = {name for other in before for name in other.effect.settings}
    if settings & names_read_at_once(step.statement.node):
        return True
    on_ranks = {n for other in before if other.on_ranks for n in other.effect.surely}
    for name in step.reads:
        for binder in selection.values.reaching(name, step.position, step.on_ranks):
            if any(other in before for other in selection.values.changers(name, binder)):
                return True
    return bool(step.on_ranks and step.reads & on_ranks)


def _shared(places: Places) -> set[str]:
    in_main = {name for step in places.main if step.brought != "pull" for name in step.binds}
    nodes = [
        node
        for step in (*places.definitions, *places.main)
        if not step.brought
        for node in ast.walk(step.statement.node)
    ]
    if any(isinstance(n, ast.Call) and _reads_scope(n) for n in nodes):
        return in_main - {"*"}
    read = {name for step in places.definitions for name in step.later}
    # A class that stays in its place is still one of the module, for pickle.
    ordinary = [s for s in places.main if not (s.on_ranks or s.brought)]
    read |= {n for s in ordinary if s.statement.is_definition for n in s.binds}
    declared = _declared_global([*places.definitions, *places.main])
    return (in_main & (read | BUILTINS)) | declared


def _declared_global(steps: Iterable[Step]) -> set[str]:
    nodes = [node for s in steps if not s.brought for node in ast.walk(s.statement.node)]
    return {name for node in nodes if isinstance(node, ast.Global) for name in node.names}


def _reads_scope(call: ast.Call) -> bool:
    name = dotted(call.func)
    return name in _READS_SCOPES or (name == "vars" and not call.args)
