"""The panel put together, and how it stands in the notebook."""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Iterator
from typing import Any

from IPython.display import publish_display_data

from accelnb.devices.hardware.machine import inspect_machine
from accelnb.jupyter import front_ends
from accelnb.notebook.panel import config_text, hardware_tiles
from accelnb.notebook.panel.actions import Actions
from accelnb.notebook.panel.elements import Message, behaviour, box, markup
from accelnb.notebook.panel.form import Form
from accelnb.notebook.panel.import_export import Import, ToScript
from accelnb.notebook.session import Session
from accelnb.options.config import ConfigError, LaunchConfig

_open: weakref.WeakKeyDictionary[Session, Panel] = weakref.WeakKeyDictionary()


def open_panel(session: Session) -> None:
    """Display a new panel for `session` and close the one before.

    Parameters
    ----------
    session
        The notebook's: the panel starts from its defaults and changes them.
    """
    front_ends.prepare_widgets()
    if before := _open.pop(session, None):
        before.close()
    panel = _open[session] = Panel(session)
    panel.display()


class Panel:
    """Hardware, form, preview and actions around one draft.

    Parameters
    ----------
    session
        Where it starts from, and what its actions change.
    """

    def __init__(self, session: Session) -> None:
        machine = self._machine = inspect_machine()
        config, wrong = _in_force(session)
        message = Message()
        self._start = config
        self._preview = config_text.Preview()
        self._found = markup(kind="found")
        self._form = Form(config, machine.hardware, message, self._on_change)
        self._actions = Actions(session, self._form, message, self._look_again)
        importer = Import(self._form, message, self._on_change)
        to_script = ToScript(session, message)
        aside = box(self._preview.widget, importer.widget, to_script.widget, kind="aside")
        self._name = uuid.uuid4().hex[:12]
        self._widget = box(
            markup(behaviour(), kind="behaviour"),
            self._found,
            box(self._form.widget, aside, kind="columns"),
            self._actions.widget,
            self._actions.self_test.widget,
            kind="panel",
        )
        self._widget.add_class(config_text.live_class(self._name))
        self._preview.show(config)
        self._show_found()
        if wrong is not None:
            message.say(f"{wrong}. The panel starts from the defaults.", "bad")

    def display(self) -> None:
        """Show it below the cell, with what stands in for it when its kernel is gone."""
        view = {"model_id": self._widget.model_id, "version_major": 2, "version_minor": 0}
        text = config_text.saved_text(self._start)
        publish_display_data(
            {
                "application/vnd.jupyter.widget-view+json": view,
                "text/html": "<!-- the panel itself; below is what it was opened with -->",
                "text/plain": text,
            }
        )
        publish_display_data(
            {"text/html": config_text.saved_html(self._start, self._name), "text/plain": text}
        )

    def close(self) -> None:
        """End its test and take it away; what it was opened with stays."""
        self._actions.self_test.close()
        for widget in _all_of(self._widget):
            widget.close()

    def _on_change(self) -> None:
        self._preview.show(self._form.draft.config)
        self._show_found()
        self._actions.on_change()

    def _look_again(self) -> None:
        """Take note of what a test may have found out about a cluster."""
        self._form.check_again()
        self._show_found()

    def _show_found(self) -> None:
        draft = self._form.draft
        if draft.config.cluster == "local":
            shown = hardware_tiles.as_html(self._machine)
        else:
            shown = hardware_tiles.cluster_as_html(
                self._machine, draft.config.cluster, draft.hardware
            )
        if shown != self._found.value:  # each key that is typed would send it anew
            self._found.value = shown


def _in_force(session: Session) -> tuple[LaunchConfig, ConfigError | None]:
    try:
        return session.defaults(), None
    except ConfigError as error:
        return LaunchConfig(), error


def _all_of(widget: Any) -> Iterator[Any]:
    for child in getattr(widget, "children", ()):
        yield from _all_of(child)
    yield widget
