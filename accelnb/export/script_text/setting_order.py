"""What cannot go above a setting that the notebook made before it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Sequence

from accelnb.export.analysis.known_names import WRAPPING
from accelnb.export.cells.syntax import FUNCTIONS, IMPORTS, base_name, executed, last_part
from accelnb.export.steps.program import Step

_SEEN_BY_IMPORTS = frozenset({"os", "sys"})  # the environment, the working folder, sys.path


def early_settings(kept: Sequence[Step]) -> list[Step]:
    """Return the first steps that set what the imports after them see.

    They go above these imports: ``os.environ["HF_HOME"] = "cache"``, ``sys.path.append("src")``.
    """
    found: list[Step] = []
    standard = {name for step in kept for name in step.binds if _is_standard(step)}
    for step in kept:
        if step.brought or step.on_ranks or step.phase:
            break
        if step.statement.is_import or step.statement.is_definition or _is_plain(step):
            continue
        is_simple = isinstance(step.statement.node, ast.Expr | ast.Assign)
        effect = step.effect
        if not (is_simple and _sets_for_imports(step)) or effect.writes or step.binds:
            break
        if step.reads - standard or effect.changes:
            break
        found.append(step)
    last = max((s.position for s in kept if _is_of_others(s)), default=-1)
    return [step for step in found if step.position < last]


def late_imports(kept: Sequence[Step], early: Sequence[Step]) -> set[Step]:
    """Return the imports that stay in their place, after a setting that they may see."""
    found: set[Step] = set()
    is_set = False
    above = {"torch"}  # which every script imports
    for step in kept:
        if step.brought:
            continue
        if step.statement.is_import:
            if is_set and _is_of_others(step) and not _homes(step) <= above:
                found.add(step)
            else:
                above |= _homes(step)
        elif step not in early and not step.statement.is_definition:
            is_set |= _sets_for_imports(step)
    return found


def names_read_at_once(node: ast.stmt) -> set[str]:
    """Return the names that a function or class reads when it is defined, beside its bases."""
    parts = [part for part in _evaluated(node) if not isinstance(part, ast.Constant)]
    return {n.id for n in executed(parts) if isinstance(n, ast.Name)}


def _evaluated(node: ast.AST) -> Iterator[ast.AST]:
    for decorator in getattr(node, "decorator_list", ()):
        function = decorator.func if isinstance(decorator, ast.Call) else decorator
        if last_part(ast.Call(function, [], [])) not in WRAPPING:
            yield decorator
    if isinstance(node, FUNCTIONS):
        yield from node.args.defaults
        yield from (default for default in node.args.kw_defaults if default is not None)
    elif isinstance(node, ast.ClassDef):
        for part in node.body:
            yield from _evaluated(part)
    elif isinstance(node, ast.AnnAssign):
        yield from [node.value] if node.value is not None else []
    else:
        yield node


def _sets_for_imports(step: Step) -> bool:
    roots = {base_name(n) for n in ast.walk(step.statement.node) if isinstance(n, ast.Attribute)}
    if step.effect.settings & _SEEN_BY_IMPORTS:
        return True
    return step.effect.is_setting and bool(roots & _SEEN_BY_IMPORTS)


def _is_plain(step: Step) -> bool:
    """Return whether it gives a name a number or a text."""
    node = step.statement.node
    if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)):
        return False
    return all(isinstance(target, ast.Name) for target in node.targets)


def _homes(step: Step) -> set[str]:
    node = step.statement.node
    if isinstance(node, ast.ImportFrom):
        return {"." * node.level + (node.module or "").partition(".")[0]}
    names: Iterable[ast.alias] = node.names if isinstance(node, ast.Import) else ()
    return {alias.name.partition(".")[0] for alias in names}


def _is_standard(step: Step) -> bool:
    is_import = isinstance(step.statement.node, IMPORTS) and not step.brought
    return is_import and _homes(step) <= sys.stdlib_module_names


def _is_of_others(step: Step) -> bool:
    is_import = isinstance(step.statement.node, IMPORTS) and not step.brought
    return is_import and not _is_standard(step)
