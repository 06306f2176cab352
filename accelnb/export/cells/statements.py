"""The statements of a cell: their text with its comments, and the names they read and bind."""

from __future__ import annotations

import ast
import functools
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field

from accelnb.export.cells.notebook_file import Cell
from accelnb.export.cells.syntax import DEFINITIONS, IMPORTS
from accelnb.jupyter.cell_names import CellNames, analyse


@dataclass(eq=False)
class Statement:
    """One statement at the top level of a cell.

    Attributes
    ----------
    edits : list
        Replacements of parts of its text: (start, end, text), by offset in the cell's code.
    """

    cell: Cell
    node: ast.stmt
    code: str
    span: tuple[int, int]
    names: CellNames
    comments: tuple[str, ...] = ()
    after: str = ""  # a comment behind it
    blank_before: bool = False
    is_last: bool = False
    is_silent: bool = False  # ends in a semicolon: the notebook does not show its value
    edits: list[tuple[int, int, str]] = field(default_factory=list)

    @property
    def is_import(self) -> bool:
        return isinstance(self.node, IMPORTS)

    @property
    def is_definition(self) -> bool:
        return isinstance(self.node, DEFINITIONS)

    def place(self) -> str:
        """Return e.g. ``cell 5, line 2``."""
        return self.cell.place(self.node.lineno)

    def text(self) -> str:
        """Return the statement with its edits, without the comments above it."""
        body = self._edited(*self.span)
        return f"{body}  {self.after}" if self.after and body else body

    def commented(self) -> str:
        """Return the statement with its edits, below the comments above it."""
        return "\n".join([*self.comments, self.text()])

    def replace(self, node: ast.AST, text: str) -> None:
        """Have `text` in place of what `node` is in the cell."""
        start, end = span_of(self.code, node)
        self.edits = [e for e in self.edits if not (start <= e[0] and e[1] <= end)]
        self.edits.append((start, end, text))

    def source_of(self, node: ast.AST) -> str:
        """Return the text of a part of the statement, with the edits in it."""
        return self._edited(*span_of(self.code, node))

    def _edited(self, start: int, end: int) -> str:
        parts, at = [], start
        for first, last, new in sorted(self.edits):
            if start <= first and last <= end:
                parts += [self.code[at:first], new]
                at = last
        return "".join([*parts, self.code[at:end]])


def cut(cell: Cell, code: str, tree: ast.Module) -> Iterator[Statement]:
    """Cut a cell into its statements, each with the comments above it and behind it."""
    comments = dict(_comments(code))
    lines = code.split("\n")
    last_line = 0
    for node in tree.body:
        start, end = _span_with_decorators(code, node)
        first = _line_of(code, start)
        ends = _line_of(code, end)
        above = [n for n in range(last_line + 1, first) if n in comments]
        behind = comments.get(ends, "")
        is_last_of_line = not code[end:].split("\n")[0].partition("#")[0].strip("; \t")
        yield Statement(
            cell,
            node,
            code,
            (start, end),
            analyse(code[start:end]),
            comments=_with_gaps(above, comments, lines, first),
            after=behind if is_last_of_line else "",
            blank_before=last_line > 0 and any(not text.strip() for text in lines[last_line:first]),
            is_last=node is tree.body[-1],
            is_silent=code[end:].lstrip(" \t").startswith(";"),
        )
        last_line = ends


def span_of(code: str, node: ast.AST) -> tuple[int, int]:
    """Return where a node's text begins and ends in `code`."""
    assert isinstance(node, ast.stmt | ast.expr | ast.keyword | ast.alias)
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return (
        _offset(code, node.lineno, node.col_offset),
        _offset(code, node.end_lineno, node.end_col_offset),
    )


def _span_with_decorators(code: str, node: ast.stmt) -> tuple[int, int]:
    start, end = span_of(code, node)
    for decorator in getattr(node, "decorator_list", ()):
        start = min(start, code.rindex("@", 0, span_of(code, decorator)[0]))
    return start, end


@functools.lru_cache(maxsize=64)
def _starts(code: str) -> tuple[int, ...]:
    starts = [0]
    for line in code.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    return tuple(starts)


def _offset(code: str, line: int, column: int) -> int:
    start = _starts(code)[line - 1]
    text = code[start : _starts(code)[line] - 1]
    return start + len(text.encode()[:column].decode())  # the syntax tree counts bytes


def _line_of(code: str, offset: int) -> int:
    return code.count("\n", 0, offset) + 1


def _comments(code: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def _with_gaps(
    above: list[int], comments: dict[int, str], lines: list[str], first: int
) -> tuple[str, ...]:
    """Return comment lines, with an empty one where the notebook has a gap."""
    found: list[str] = []
    for number, following in zip(above, [*above[1:], first], strict=False):
        found.append(comments[number])
        if following > number + 1 and not any(
            line.strip() for line in lines[number : following - 1]
        ):
            found.append("")
    return tuple(found)
