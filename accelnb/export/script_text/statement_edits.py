"""Changes to the text of the notebook's own statements, so that it means the same in a script."""

from __future__ import annotations

import ast

from accelnb.export.analysis.imported_names import Imported
from accelnb.export.cells.syntax import calls_in, dotted, executed
from accelnb.export.script_text.placement import Places
from accelnb.export.steps.selection import Selection


def adapt(selection: Selection) -> None:
    """Change what means something else in the main function of a script than in a cell."""
    _take_ipython_out(selection)
    _mean_the_module(selection)
    _name_pulled(selection)


def leave_annotations_out(places: Places) -> None:
    """Take the annotation from what main assigns to a ``global`` name: Python refuses it there."""
    for step in places.main:
        node = step.statement.node
        is_shared = not step.brought and bool(step.binds & places.shared)
        if isinstance(node, ast.AnnAssign) and node.value is not None and is_shared:
            value = step.statement.source_of(node.value)
            step.statement.replace(node, f"{step.statement.source_of(node.target)} = {value}")


def _take_ipython_out(selection: Selection) -> None:
    """Have ``print`` for ``display``, and nothing for ``clear_output``."""
    for step in selection.kept:
        if step.brought:
            continue
        for node in calls_in(step.statement.node):
            if _is_of_ipython(node, "display", selection.program.imported):
                step.statement.replace(node.func, "print")
            elif _is_of_ipython(node, "clear_output", selection.program.imported):
                is_all = getattr(step.statement.node, "value", None) is node
                step.statement.replace(node, "" if is_all else "None")


def _mean_the_module(selection: Selection) -> None:
    """Have the module's names for what a cell calls its own: main has others of its own."""
    for step in selection.kept:
        if step.brought or step.statement.is_definition:
            continue
        for node in executed([step.statement.node]):
            if not isinstance(node, ast.Call) or node.keywords:
                continue
            name = dotted(node.func)
            if name in ("exec", "eval") and len(node.args) == 1:
                given = step.statement.source_of(node.args[0])
                step.statement.replace(node, f"{name}({given}, globals())")
            elif name in ("locals", "vars") and not node.args:
                step.statement.replace(node, "globals()")


def _is_of_ipython(call: ast.Call, name: str, imported: Imported) -> bool:
    path = imported.path(call.func)
    if path:
        return path in (f"IPython.display.{name}", f"IPython.core.display_functions.{name}")
    return isinstance(call.func, ast.Name) and call.func.id == name == "display"


def _name_pulled(selection: Selection) -> None:
    """Give what ``--pull`` brought a name of its own: the ranks' variable keeps its."""
    for step, names in selection.pulled.items():
        for node in ast.walk(step.statement.node):
            if isinstance(node, ast.Name) and node.id in names:
                step.statement.replace(node, f"{node.id}_of_ranks")
