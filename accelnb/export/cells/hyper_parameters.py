"""Hyper-parameters: the values of a cell tagged `parameters` become command-line options."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from accelnb.export.cells.statements import Statement
from accelnb.export.cells.syntax import assigned_name, is_literal

_TAGS = ("parameters", "injected-parameters")  # papermill's own, and what it adds
_SCALARS = (bool, int, float, str)
_ANNOTATION = re.compile(r"(?:(?:typing\.|t\.)?(?:[Oo]ptional|[Ll]ist|[Tt]uple)\[)?(?P<kind>\w+)")


@dataclass(frozen=True)
class Parameter:
    """One hyper-parameter.

    Attributes
    ----------
    source : str
        The value that the notebook gives, as text.
    kind : str
        The type of the option's value: ``int``, ``float``, ``str`` or ``bool``.
    container : str
        ``list`` or ``tuple`` if it has several values, else empty.
    about : str
        What the comment behind it says.
    """

    name: str
    source: str
    kind: str
    container: str = ""
    about: str = ""

    def option(self) -> list[str]:
        """Return the lines that declare the option."""
        given = [f'"--{self.name.replace("_", "-")}"']
        if self.kind == "bool":
            given += ["action=argparse.BooleanOptionalAction", f"default={self.source}"]
        else:
            given += [f"type={self.kind}", f"default={self.source}"]
        if self.container:
            given.append('nargs="*"')
        about = self.about.replace("%", "%%").replace('"', "'")
        shown = f"{about} (default: %(default)s)" if about else "default: %(default)s"
        given.append(f'help="{shown}"')
        one = f"    parser.add_argument({', '.join(given)})"
        if len(one) <= 100:
            return [one]
        return ["    parser.add_argument(", *(f"        {part}," for part in given), "    )"]

    def assignment(self, arguments: str) -> str:
        """Return the line of the main function that takes the option's value."""
        value = f"{arguments}.{self.name}"
        return f"{self.name} = " + (f"tuple({value})" if self.container == "tuple" else value)


def parameter_of(statement: Statement) -> Parameter | None:
    """Return the hyper-parameter that a statement gives, if it gives one."""
    node = statement.node
    assigned = assigned_name(node) if statement.cell.tags.intersection(_TAGS) else None
    if assigned is None or assigned[0].startswith("_") or not is_literal(assigned[1]):
        return None
    name, value = assigned
    annotation = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else ""
    default = ast.literal_eval(value)
    container = type(default).__name__ if isinstance(default, list | tuple) else ""
    kinds = {type(part) for part in default} if container else {type(default)}
    kind = _kind(kinds, annotation)
    if not kind or (container and kind == "bool"):
        return None
    source = statement.source_of(value)
    if isinstance(value, ast.Tuple):  # argparse makes lists
        source = f"[{', '.join(map(statement.source_of, value.elts))}]"
    about = statement.after.lstrip("# ").strip()
    return Parameter(name, source, kind, container, about)


def not_an_option(statement: Statement) -> str:
    """Return the name that a statement of a `parameters` cell sets and no option can, if any."""
    node = statement.node
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    is_ours = bool(statement.cell.tags.intersection(_TAGS)) and not parameter_of(statement)
    return target.id if is_ours and isinstance(target, ast.Name) else ""


def _kind(kinds: set[type], annotation: str) -> str:
    said = _ANNOTATION.match(annotation)
    for kind in _SCALARS:
        if said and said["kind"] == kind.__name__:
            return kind.__name__
    if kinds == {int, float}:
        return "float"
    if len(kinds) != 1:
        return ""
    kind = kinds.pop()
    if kind is type(None):
        return "str"
    return kind.__name__ if kind in _SCALARS else ""


def parser_text(parameters: list[Parameter], arguments: str) -> str:
    """Return the function that reads the command line."""
    lines = ["", f"def {arguments}() -> argparse.Namespace:"]
    lines += ['    """Read the hyper-parameters from the command line."""']
    lines += ['    parser = argparse.ArgumentParser(description=__doc__.partition("\\n")[0])']
    for parameter in parameters:
        lines += parameter.option()
    lines.append("    return parser.parse_args()")
    return "\n".join(lines) + "\n"
