"""Source text: indentation, line breaks and comments, with strings left as they are."""

from __future__ import annotations

import ast
import io
import tokenize

WIDTH = 100


def indented(text: str, by: int = 4) -> str:
    """Indent code; the lines of a string that goes over several keep their place.

    Examples
    --------
    >>> from accelnb.export.script_text.source_text import indented
    >>> print(indented("if x:\\n    y()", 2))
      if x:
          y()
    """
    inside = _lines_in_strings(text)
    space = " " * by
    return "\n".join(
        line if not line.strip() or number in inside else space + line
        for number, line in enumerate(text.split("\n"), 1)
    )


def dedented(block: str) -> str:
    """Return an indented block of code as it would stand at the top; strings keep their place.

    Examples
    --------
    >>> from accelnb.export.script_text.source_text import dedented
    >>> dedented("    x = 1")
    'x = 1'
    """
    inside = _lines_in_strings(f"if 1:\n{block}")
    margin = len(block) - len(block.lstrip(" \t"))
    return "\n".join(
        line if number in inside else line[margin:] if line[:margin].isspace() else line.lstrip()
        for number, line in enumerate(block.split("\n"), 2)
    )


def _lines_in_strings(text: str) -> set[int]:
    """Return the lines that begin inside a string, docstrings of functions aside."""
    strings: list[tuple[int, int]] = []
    begun: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        name = tokenize.tok_name[token.type]
        if name == "STRING":
            strings.append((token.start[0], token.end[0]))
        elif name in ("FSTRING_START", "TSTRING_START"):
            begun.append(token.start[0])
        elif name in ("FSTRING_END", "TSTRING_END"):
            strings.append((begun.pop(), token.end[0]))
    documents = {
        node.body[0].lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and ast.get_docstring(node) is not None
    }
    lines: set[int] = set()
    for first, last in strings:
        if first not in documents:
            lines.update(range(first + 1, last + 1))
    return lines


def tidy(text: str) -> str:
    """Take away spaces at the ends of lines, and empty lines above two."""
    inside = _lines_in_strings(text)
    lines = [
        line if number in inside or number + 1 in inside else line.rstrip()
        for number, line in enumerate(text.split("\n"), 1)
    ]
    tidied: list[str] = []
    for number, line in enumerate(lines, 1):
        if line or number in inside or tidied[-2:] != ["", ""]:
            tidied.append(line)
    return "\n".join(tidied).strip("\n") + "\n"


def call_of(function: str, argument: str, before: str = "", indent: int = 4) -> str:
    """Return ``before function(argument)``, on several lines where one would be too long."""
    one = f"{before}{function}({argument})"
    if "\n" in argument or len(one) + indent <= WIDTH:
        return one
    return f"{before}{function}(\n{indented(argument)}\n)"
