"""A notebook's file: its cells, in the order in which they ran."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from accelnb.errors import AccelnbError


class ExportError(AccelnbError):
    """What cannot leave the notebook as it is. Nothing was written."""


@dataclass(frozen=True)
class Cell:
    """One cell of a notebook.

    Attributes
    ----------
    number : int
        Its place among the code cells, from 1; for a markdown cell that of the next code cell.
    is_code : bool
        Whether it is code; else it is markdown.
    source : str
        Its text.
    tags : frozenset of str
        Such as ``parameters``.
    count : int or None
        The number of its last execution, as in ``In [3]``.
    """

    number: int
    is_code: bool
    source: str
    tags: frozenset[str] = frozenset()
    count: int | None = None

    def place(self, line: int | None = None) -> str:
        """Return e.g. ``cell 5 (In [3]), line 2``.

        Examples
        --------
        >>> from accelnb.export.cells.notebook_file import Cell
        >>> Cell(5, True, "", count=3).place(2)
        'cell 5 (In [3]), line 2'
        """
        shown = f" (In [{self.count}])" if self.count is not None else ""
        at = f", line {line}" if line is not None else ""
        return f"cell {self.number}{shown}{at}"


class Draft(NamedTuple):
    """A cell of a notebook to be: ``code`` or ``markdown``, its text and its tags."""

    kind: str
    text: str
    tags: Sequence[str] = ()


@dataclass(frozen=True)
class Notebook:
    """The cells of a notebook, as they stand in its file."""

    name: str
    cells: tuple[Cell, ...]

    @property
    def code(self) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if cell.is_code)

    def as_it_ran(self) -> tuple[Cell, ...]:
        """Return the code cells in the order of their execution.

        Those that did not run are left out, unless none did: then the order is that of the file.
        """
        ran = [cell for cell in self.code if cell.count is not None]
        return tuple(sorted(ran, key=lambda cell: cell.count or 0)) or self.code

    def not_run(self) -> tuple[Cell, ...]:
        """Return the cells that `as_it_ran` leaves out, without the empty ones."""
        ran = self.as_it_ran()
        return tuple(cell for cell in self.code if cell not in ran and cell.source.strip())


def read_notebook(path: str | os.PathLike[str]) -> Notebook:
    """Read a notebook's file.

    Raises
    ------
    ExportError
        It is not there, or is not a notebook of Python code in the form of Jupyter 4 or newer.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ExportError(f"{path} is not a notebook: it is not text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise ExportError(f"{path}, line {error.lineno}: is not a notebook: {error.msg}") from None
    return from_document(document, path.name)


def from_document(document: Any, name: str) -> Notebook:
    """Make a Notebook of the document that a notebook's file holds."""
    if not isinstance(document, Mapping) or not isinstance(document.get("cells"), Sequence):
        old = isinstance(document, Mapping) and "worksheets" in document
        do = "open it in Jupyter and save it" if old else "give a notebook (.ipynb)"
        what = "an old form of notebook" if old else "not a notebook"
        raise ExportError(f"{name} is {what}: {do}")
    metadata = document.get("metadata", {})
    language = metadata.get("kernelspec", {}).get("language", "python")
    if language.lower() not in ("python", "ipython"):
        raise ExportError(f"{name} is a notebook of {language}: only Python can be exported")
    cells = []
    for raw in document["cells"]:
        kind = raw.get("cell_type")
        if kind not in ("code", "markdown"):
            continue
        number = 1 + sum(cell.is_code for cell in cells)
        source = raw.get("source", "")
        text = source if isinstance(source, str) else "".join(source)
        tags = frozenset(raw.get("metadata", {}).get("tags", ()))
        cells.append(Cell(number, kind == "code", text, tags, raw.get("execution_count")))
    return Notebook(name, tuple(cells))


def document_of(drafts: Iterable[Draft]) -> str:
    """Return the text of a notebook's file that has these cells."""
    from nbformat import v4

    make = {"code": v4.new_code_cell, "markdown": v4.new_markdown_cell}
    cells = [
        make[draft.kind](
            draft.text.strip("\n"),
            id=f"cell-{number:02}",
            metadata={"tags": list(draft.tags)} if draft.tags else {},
        )
        for number, draft in enumerate(drafts)
    ]
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return v4.writes(v4.new_notebook(cells=cells, metadata=metadata))


def in_order_of_file(notebook: Notebook) -> Notebook:
    """Return the notebook as if no cell had run: then the order is that of the file."""
    cells = tuple(dataclasses.replace(cell, count=None) for cell in notebook.cells)
    return Notebook(notebook.name, cells)
