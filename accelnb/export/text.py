"""Text of a script: indentation, imports, headings, lines that are not too long."""

from __future__ import annotations

import ast
import io
import re
import sys
import textwrap
import tokenize
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from accelnb.export.notebook_file import Cell, Notebook

WIDTH = 100
_HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")


def indented(text: str, by: int = 4) -> str:
    """Indent code; the lines of a string that goes over several keep their place.

    Examples
    --------
    >>> from accelnb.export.text import indented
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
    >>> from accelnb.export.text import dedented
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


def comment(text: str, indent: int = 0) -> str:
    """Return text as comment lines."""
    return textwrap.fill(
        text, WIDTH - indent, initial_indent="# ", subsequent_indent="# ", break_long_words=False
    )


@dataclass(frozen=True)
class Headings:
    """The headings of a notebook: its title, and the section of each cell."""

    title: str
    sections: dict[int, str]  # by a cell's number; empty above the first heading

    def of(self, cell: Cell) -> str:
        return self.sections.get(cell.number, "")


def headings_of(notebook: Notebook) -> Headings:
    """Find the title and the sections that the markdown of a notebook gives.

    Examples
    --------
    >>> from accelnb.export.notebook_file import Cell, Notebook
    >>> from accelnb.export.text import headings_of
    >>> cells = Cell(1, False, "# Digits"), Cell(1, False, "## Data"), Cell(1, True, "x = 1")
    >>> headings_of(Notebook("digits.ipynb", cells))
    Headings(title='Digits', sections={1: 'Data'})
    """
    title, section = "", ""
    sections: dict[int, str] = {}
    for cell in notebook.cells:
        if cell.is_code:
            sections[cell.number] = section
            continue
        for depth, said in _headings(cell.source):
            if not title and depth == 1 and not sections:
                title = said
            else:
                section = said
    return Headings(title, sections)


def _headings(markdown: str) -> Iterable[tuple[int, str]]:
    fenced = False
    for line in markdown.split("\n"):
        fenced ^= line.lstrip().startswith(("```", "~~~"))
        if not fenced and (found := _HEADING.fullmatch(line)):
            said = _LINK.sub(r"\1", found[2]).replace("`", "").replace("*", "")
            yield len(found[1]), said.strip()


def imports_text(statements: Sequence[tuple[str, str]]) -> str:
    """Put imports in order: of the standard library, others, those of this folder.

    Parameters
    ----------
    statements
        Each import of one name, as (text, comment behind it).

    Examples
    --------
    >>> from accelnb.export.text import imports_text
    >>> print(imports_text([("from torch import nn", ""), ("import os", ""),
    ...                     ("from torch import optim", "")]))
    import os
    <BLANKLINE>
    from torch import nn, optim
    """
    plain: dict[str, str] = {}
    names: dict[str, dict[str, str]] = {}
    for text, behind in statements:
        if text.startswith("import "):
            plain[text] = plain.get(text) or behind
        else:
            module, _, name = text.removeprefix("from ").partition(" import ")
            of_module = names.setdefault(module, {})
            of_module[name] = of_module.get(name) or behind
    lines: dict[int, list[str]] = {}
    for text, behind in sorted(plain.items()):
        lines.setdefault(_group(text.split()[1]), []).append(_with(text, behind))
    for module in sorted(names, key=str.lower):
        of_module = names[module]
        if "*" in of_module:  # it stands alone, above what is imported by name
            star = _with(f"from {module} import *", of_module.pop("*"))
            lines.setdefault(_group(module), []).append(star)
        if of_module:
            lines.setdefault(_group(module), []).append(_from(module, of_module))
    return "\n\n".join("\n".join(lines[group]) for group in sorted(lines))


def _group(module: str) -> int:
    first = module.partition(".")[0]
    if first == "__future__":
        return 0
    if not first:
        return 3
    return 1 if first in sys.stdlib_module_names else 2


def _from(module: str, names: dict[str, str]) -> str:
    ordered = sorted(names, key=lambda name: (_kind(name), name.lower(), name))
    behind = " ".join(dict.fromkeys(text for text in names.values() if text))
    line = f"from {module} import {', '.join(ordered)}"
    if len(line) > WIDTH:
        listed = "".join(f"    {name},\n" for name in ordered)
        line = f"from {module} import (\n{listed})"
    return _with(line, behind)


def _kind(name: str) -> int:
    """Constants come first, then classes, then the rest, as import sorters have it."""
    first = name.split()[0]
    return 0 if first.isupper() and len(first) > 1 else 1 if first[:1].isupper() else 2


def _with(text: str, behind: str) -> str:
    return f"{text}  {behind}" if behind else text
