"""A piece of output that is redrawn in place while it changes."""

from __future__ import annotations

import sys
import uuid
from typing import Any

from IPython.core.getipython import get_ipython
from IPython.display import publish_display_data


def in_kernel() -> bool:
    """Return whether output goes into a notebook's document rather than to a terminal."""
    return hasattr(get_ipython(), "kernel")


class NotebookArea:
    """A display output of the cell; it stays where it was first shown."""

    def __init__(self) -> None:
        self._display_id: str | None = None
        self._shown: dict[str, Any] = {}

    def show(self, text: str, **formats: Any) -> None:
        """Show `text`, or one of `formats` (by MIME type) where the front end can."""
        self.show_data({"text/plain": text, **{k.replace("_", "/"): d for k, d in formats.items()}})

    def show_data(self, data: dict[str, Any]) -> None:
        """Show a bundle of data by MIME type."""
        if data == self._shown:
            return
        self._shown = data
        is_new = self._display_id is None
        self._display_id = self._display_id or uuid.uuid4().hex
        publish_display_data(data, transient={"display_id": self._display_id}, update=not is_new)

    def cleared(self) -> None:
        """Take note that the cell's output was cleared: what is shown next is shown anew."""
        self._display_id, self._shown = None, {}

    def close(self) -> None:
        """Leave the last state for good."""


class TerminalArea:
    """A terminal's output cannot be changed: the last state is printed at the end."""

    def __init__(self) -> None:
        self._text = ""

    def show(self, text: str, **formats: Any) -> None:
        self._text = text

    def cleared(self) -> None:
        pass

    def close(self) -> None:
        if self._text:
            sys.stdout.write(self._text + "\n")
            self._text = ""


Area = NotebookArea | TerminalArea


def new_area() -> Area:
    return NotebookArea() if in_kernel() else TerminalArea()
