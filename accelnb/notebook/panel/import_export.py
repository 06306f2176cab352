"""The notebook as a script, from the panel."""

from __future__ import annotations

from pathlib import Path

import ipywidgets

from accelnb.notebook.panel.elements import Message, box, button
from accelnb.notebook.session import Session


class ToScript:
    """Exports the notebook to a file whose name is typed here.

    Parameters
    ----------
    session
        Of the notebook.
    message
        Where it says what came of it.
    """

    def __init__(self, session: Session, message: Message) -> None:
        self._session, self._message = session, message
        self._path = ipywidgets.Text(
            "train.py",
            description="Export as a script",
            tooltip="the script's file; it runs with python, torchrun and accelnb launch",
        )
        self._write = button("Export", "write the notebook as a script")
        self._write.on_click(message.guard(self._on_write))
        self._path.observe(lambda _: self._ask_to_replace(False), names="value")
        self._asked_to_replace = False
        self.widget = box(self._path, self._write, kind="import")

    def _on_write(self) -> None:
        from accelnb.export import live

        path = Path(self._path.value.strip() or "train.py")
        if path.exists() and not self._asked_to_replace:
            self._ask_to_replace(True)
            self._message.say(f"{path} is there already. Replace the file?", "bad")
            return
        exported = live(
            self._session.shell,
            path,
            force=self._asked_to_replace,
            base=self._session.defaults(),
        )
        self._ask_to_replace(False)
        self._message.say(f"Written: {path}. {' '.join(f'{note}.' for note in exported.notes)}")

    def _ask_to_replace(self, asked: bool) -> None:
        self._asked_to_replace = asked
        self._write.description = "Replace it" if asked else "Export"
