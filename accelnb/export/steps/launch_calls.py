"""Calls that launch a function on ranks: in a script, each process calls the function itself."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from accelnb.export.analysis.imported_names import Imported
from accelnb.export.cells.notebook_file import ExportError
from accelnb.export.cells.statements import Statement, span_of
from accelnb.export.cells.syntax import arguments_of, calls_in, dotted
from accelnb.options.config import ConfigError, LaunchConfig, from_mapping, options

_LAUNCHERS = {
    "accelnb.notebook_launcher": "notebook_launcher",
    "accelerate.notebook_launcher": "notebook_launcher",
    "accelerate.launchers.notebook_launcher": "notebook_launcher",
    "accelnb.launch": "launch",
}
_DECORATOR = "accelnb.distributed"
# Accelerate's name of an option, and ours.
_RENAMED = {"num_processes": "procs", "mixed_precision": "precision"}
_OPTIONS = frozenset(option.name for option in options(LaunchConfig))
_NOTEBOOK_LAUNCHER = ("function", "args", "num_processes", "mixed_precision")


class LaunchCalls:
    """Finds the calls of a notebook that launch ranks, and puts the plain call in their place.

    Attributes
    ----------
    decorated : dict
        Functions under ``@accelnb.distributed``, with the options that it gives.
    """

    def __init__(self, imported: Imported) -> None:
        self._imported = imported
        self.decorated: dict[str, dict[str, Any]] = {}

    def undecorate(self, statement: Statement) -> None:
        """Take ``@accelnb.distributed`` from a function, and remember its name."""
        node = statement.node
        if not isinstance(node, ast.FunctionDef):
            return
        for decorator in node.decorator_list:
            call = decorator if isinstance(decorator, ast.Call) else None
            if self._imported.path(call.func if call else decorator) == _DECORATOR:
                self.decorated[node.name] = _checked(
                    statement, {k.arg or "": k.value for k in call.keywords} if call else {}
                )
                start, _ = span_of(statement.code, decorator)
                start = statement.code.rindex("@", 0, start + 1)
                end = statement.code.index("\n", start) + 1
                statement.edits.append((start, end, ""))

    def found_in(self, statement: Statement) -> list[ast.Call]:
        """Return the calls in a statement that launch ranks when it runs."""
        if statement.is_definition:
            return []
        return [
            call
            for call in calls_in(statement.node)
            if self._launcher(call) or dotted(call.func) in self.decorated
        ]

    def options(self, statement: Statement, call: ast.Call) -> dict[str, Any]:
        """Return the launch options that a call gives."""
        if not self._launcher(call):
            return self.decorated[dotted(call.func)]
        _, given = self._given(call)
        renamed = {_RENAMED.get(name, name): value for name, value in given.items()}
        return _checked(statement, {n: v for n, v in renamed.items() if n in _OPTIONS})

    def function_of(self, call: ast.Call) -> tuple[ast.expr | None, list[ast.expr]]:
        """Return the function that a call launches, and what it gives to it."""
        if not self._launcher(call):
            return call.func, arguments_of(call)
        function, _ = self._given(call)
        return function, [value for value in arguments_of(call) if value is not function]

    def plain(self, statement: Statement, call: ast.Call) -> str:
        """Return the text of the plain call of the function that `call` launches."""
        launcher = self._launcher(call)
        if not launcher:
            return statement.source_of(call)
        function, given = self._given(call)
        if function is None or any(isinstance(arg, ast.Starred) for arg in call.args[:1]):
            raise ExportError(f"{statement.place()}: name the function that {launcher}() calls")
        if launcher == "notebook_launcher":
            passed = _unpacked(statement, given.get("args"))
        else:
            passed = [statement.source_of(arg) for arg in call.args[1:]]
            passed += [statement.source_of(k) for k in call.keywords if k.arg not in _OPTIONS]
        text = statement.source_of(function)
        callee = f"({text})" if isinstance(function, ast.Lambda) else text
        return f"{callee}({', '.join(passed)})"

    def _given(self, call: ast.Call) -> tuple[ast.expr | None, dict[str, ast.expr]]:
        """Return the function that a launcher calls, and what the launcher is given by name."""
        given = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        if self._launcher(call) == "notebook_launcher":
            given = dict(zip(_NOTEBOOK_LAUNCHER, call.args, strict=False)) | given
        function = given.pop("function", None) or (call.args[0] if call.args else None)
        return function, given

    def _launcher(self, call: ast.Call) -> str:
        return _LAUNCHERS.get(self._imported.path(call.func), "")


def _unpacked(statement: Statement, args: ast.expr | None) -> list[str]:
    if args is None:
        return []
    if isinstance(args, ast.Tuple | ast.List):
        return [statement.source_of(element) for element in args.elts]
    return [f"*{statement.source_of(args)}"]


def _checked(statement: Statement, given: Mapping[str, ast.expr]) -> dict[str, Any]:
    """Return the options whose values are written out; the others come with the launch."""
    values = {}
    for name, node in given.items():
        try:
            values[name] = ast.literal_eval(node)
        except ValueError:
            if name != "procs":
                raise ExportError(
                    f"{statement.place()}: {name}={ast.unparse(node)}: write the value itself, "
                    "for a script is launched before it computes anything"
                ) from None
    try:
        config = from_mapping(LaunchConfig, values)
    except ConfigError as error:
        raise ExportError(f"{statement.place()}: {error}") from None
    return {name: getattr(config, name) for name in values if hasattr(config, name)}
