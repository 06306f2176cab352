"""Small pieces that the panel is built of."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets

from accelnb.errors import AccelnbError

Action = Callable[[], None]


def box(*children: Any, kind: str) -> ipywidgets.Box:
    """Return a box with a CSS class of panel.css."""
    made = ipywidgets.Box(children)
    made.add_class(f"accelnb-{kind}")
    return made


def markup(text: str = "", *, kind: str) -> ipywidgets.HTML:
    """Return a piece of HTML with a CSS class of panel.css."""
    made = ipywidgets.HTML(text)
    made.add_class(f"accelnb-{kind}")
    return made


def button(label: str, tooltip: str, *, kind: str = "button") -> ipywidgets.Button:
    """Return a button with a CSS class of panel.css."""
    made = ipywidgets.Button(description=label, tooltip=tooltip)
    made.add_class(f"accelnb-{kind}")
    return made


def behaviour() -> str:
    """Return the HTML that brings the panel's style, and its arrow keys and Copy buttons.

    Where a front end runs no scripts, Tab and Enter still do all there is.
    """
    folder = Path(__file__).parent
    style = (folder / "panel.css").read_text(encoding="utf-8")
    script = (folder / "panel.js").read_text(encoding="utf-8")
    return f'<style onload="{html.escape(script)}">{style}</style>'


class Message:
    """One line that says what came of an action; its place is there before it is needed."""

    def __init__(self) -> None:
        self.widget = markup(kind="message")
        self.widget.add_class("accelnb-polite")  # read out by screen readers

    def say(self, text: str, mood: str = "good") -> None:
        """Show `text`; `mood` is good, bad or quiet."""
        self.widget.value = f'<span class="accelnb-{mood}">{html.escape(text)}</span>'

    def guard(self, action: Action) -> Callable[..., None]:
        """Return `action` as a widget's callback; what it raises is said here.

        A widget's callback has no cell in which its error could appear.
        """

        def call(*_: Any) -> None:
            try:
                action()
            except AccelnbError as error:
                self.say(str(error), "bad")
            except Exception as error:
                self.say(f"unexpected {type(error).__name__}: {error}", "bad")

        return call
