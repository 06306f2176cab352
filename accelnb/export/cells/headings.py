"""The title and the sections that the markdown of a notebook gives."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from accelnb.export.cells.notebook_file import Cell, Notebook

_HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")


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
    >>> from accelnb.export.cells.notebook_file import Cell, Notebook
    >>> from accelnb.export.cells.headings import headings_of
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
