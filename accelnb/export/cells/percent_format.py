"""Scripts in the percent format, which editors and jupytext share: cells begin with ``# %%``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from accelnb.export.cells.notebook_file import Draft

_MARK = re.compile(r"# ?%%(?:\s+(?P<rest>.*))?")
_MAGIC = re.compile(r"# (?P<magic>(?:%%?[a-z]\w*|!\w).*)")
_TAGS = re.compile(r"tags=(\[[^\]]*\])")


def has_marks(source: str) -> bool:
    """Return whether a script says where its cells begin.

    Examples
    --------
    >>> from accelnb.export.cells.percent_format import has_marks
    >>> has_marks("# %%\\nx = 1"), has_marks("x = 1")
    (True, False)
    """
    return any(_MARK.fullmatch(line) for line in source.split("\n"))


def cells_of_marks(source: str) -> Iterator[Draft]:
    """Yield the cells of a script with marks."""
    kind, tags = "code", []
    lines: list[str] = []
    for line in [*_without_header(source), "# %%"]:
        mark = _MARK.fullmatch(line)
        if mark is None:
            lines.append(line)
            continue
        if text := "\n".join(lines).strip("\n"):
            yield Draft(kind, _markdown(text) if kind == "markdown" else _code(text), tags)
        rest = mark["rest"] or ""
        kind = "markdown" if "[markdown]" in rest or "[md]" in rest else "code"
        found = _TAGS.search(rest)
        tags = list(ast.literal_eval(found[1])) if found else []
        title = re.sub(r"\[\w+\]|\w+=(\[[^\]]*\]|\{.*\}|\"[^\"]*\")", "", rest).strip()
        lines = [f"# {title}"] if title else []


def _without_header(source: str) -> list[str]:
    """Return the lines below what jupytext keeps at the top."""
    lines = source.split("\n")
    if lines[0].strip() != "# ---":
        return lines
    ends = [number for number, line in enumerate(lines[1:], 1) if line.strip() == "# ---"]
    return lines[ends[0] + 1 :] if ends else lines


def _markdown(text: str) -> str:
    if text.startswith(('"""', "'''")):
        return text[3:-3].strip("\n")
    return re.sub(r"(?m)^# ?", "", text)


def _code(text: str) -> str:
    """Bring back the magics, which are comments in a script."""
    return "\n".join(
        found["magic"] if (found := _MAGIC.fullmatch(line)) else line for line in text.split("\n")
    )
