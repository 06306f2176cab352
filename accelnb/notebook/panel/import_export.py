"""The panel's files: Accelerate's configuration read, the notebook written as a script."""

from __future__ import annotations

from pathlib import Path

import ipywidgets

from accelnb.errors import AccelnbError
from accelnb.notebook.panel.config_draft import BY_NAME
from accelnb.notebook.panel.elements import Action, Message, box, button
from accelnb.notebook.panel.form import Form
from accelnb.notebook.session import Session
from accelnb.options.accelerate_file import default_path, read_accelerate
from accelnb.options.config import LaunchConfig, from_mapping


class Import:
    """Takes over the options of an Accelerate configuration file.

    Parameters
    ----------
    form
        Which gets them.
    message
        Where it says what was taken over.
    on_change
        Called when the form has them.
    """

    def __init__(self, form: Form, message: Message, on_change: Action) -> None:
        self._form, self._message, self._on_change = form, message, on_change
        path = default_path()
        self._path = ipywidgets.Text(
            str(path) if path.exists() else "",
            description="Import from Accelerate",
            placeholder=str(path),
            tooltip="path of a file that accelerate config wrote",
        )
        read = button("Import", "take over the options of this file")
        read.on_click(message.guard(self._import))
        self.widget = box(self._path, read, kind="import")

    def _import(self) -> None:
        text = self._path.value.strip()
        values = read_accelerate(text or None)
        if not values:
            raise AccelnbError(f"{values.path} has no option that accelnb knows")
        self._form.draft.replace(from_mapping(LaunchConfig, values, self._form.draft.config))
        self._form.show()
        self._on_change()
        read = [f"{name}={BY_NAME[name].write(value)}" for name, value in values.items()]
        said = [f"Imported {', '.join(read)}."]
        if values.beyond_options:
            said.append(
                f"To be said in the cell, by a FullyShardedDataParallelPlugin or a "
                f"ParallelismConfig: {', '.join(values.beyond_options)}."
            )
        if values.left_out:
            said.append(f"Not taken over: {', '.join(values.left_out)}.")
        wrong = self._form.draft.first_error
        said += [f"To put right: {wrong}."] if wrong else []
        self._message.say(" ".join(said), "bad" if wrong else "good")


class ToScript:
    """Exports the notebook to a file whose name is typed here.

    Parameters
    ----------
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
