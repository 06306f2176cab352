"""Notebooks as files, for tests that read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write(folder: Path, *sources: str | tuple[str, dict[str, Any]]) -> Path:
    """Write a notebook of code cells, each a text, or a text with fields of the cell."""
    cells = []
    for source in sources:
        text, more = source if isinstance(source, tuple) else (source, {})
        kind = "markdown" if text.startswith("#md ") else "code"
        text = text.removeprefix("#md ")
        cells.append({"cell_type": kind, "metadata": {}, "source": text} | more)
    path = folder / "notebook.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}))
    return path
