"""What a value is chosen with: a row of choices, a number, a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets

from accelnb.notebook.panel.elements import box, button
from accelnb.options.config import ConfigError, Option

Choose = Callable[[Any], None]
Why = Mapping[str, str | None]  # choice -> why it cannot be chosen


class Choices:
    """A row of buttons of which one is chosen; those that cannot be are inactive.

    Parameters
    ----------
    why
        The choices, and those that are only shown, inactive.
    choose
        Called with the choice that the user made.
    """

    def __init__(self, why: Why, choose: Choose) -> None:
        self._choose = choose
        self._buttons: dict[str, ipywidgets.Button] = {}
        self.widget = box(kind="choices")
        self._offer(why)

    def show(self, value: Any, in_force: Any, why: Why) -> None:
        """Show the value chosen, what it means on this machine, and what can be chosen."""
        self._offer(why)
        for choice, one in self._buttons.items():
            one.disabled = why[choice] is not None
            one.tooltip = why[choice] or (f"{choice}, chosen" if choice == value else choice)
            _mark(one, choice == value)

    def _offer(self, why: Why) -> None:
        """Have a button for each choice: which there are may change with the other options."""
        if list(why) == list(self._buttons):
            return
        self._buttons = {choice: self._buttons.get(choice) or self._new(choice) for choice in why}
        self.widget.children = tuple(self._buttons.values())

    def _new(self, choice: str) -> ipywidgets.Button:
        one = button(choice, "", kind="choice")
        one.on_click(lambda _: self._choose(choice))
        return one


class Number:
    """A whole number; where its default is automatic, with a button that makes it so again."""

    def __init__(self, option: Option, label: str, choose: Choose) -> None:
        self._choose = choose
        self._field = ipywidgets.IntText(
            description=label, tooltip=option.help, continuous_update=True
        )
        self._field.observe(self._on_typed, "value")
        self._automatic = button("auto", "let accelnb choose", kind="choice")
        self._automatic.on_click(lambda _: choose(None))
        shown = (self._field, self._automatic) if option.default is None else (self._field,)
        self.widget = box(*shown, kind="field")

    def show(self, value: Any, in_force: Any, why: Why) -> None:
        """Show the value chosen: of an automatic one, what it means on this machine."""
        _mark(self._automatic, value is None)
        self._field.unobserve(self._on_typed, "value")
        if in_force is not None:
            self._field.value = in_force
        self._field.observe(self._on_typed, "value")

    def _on_typed(self, change: Any) -> None:
        self._choose(change["new"])


class Text:
    """A value typed as on the magic line."""

    def __init__(self, option: Option, label: str, example: str, choose: Choose) -> None:
        self._option, self._choose = option, choose
        self._field = ipywidgets.Text(description=label, placeholder=example, tooltip=option.help)
        self._field.observe(self._on_typed, "value")
        self.widget = box(self._field, kind="field")

    def show(self, value: Any, in_force: Any, why: Why) -> None:
        """Show the value chosen."""
        self._write(self._option.write(value), value)

    def show_empty(self, value: Any) -> None:
        """Show nothing: the value chosen is seen elsewhere."""
        self._write("", value)

    def _write(self, text: str, value: Any) -> None:
        if _reads_as(self._option, self._field.value, value):
            return  # left as it was typed
        self._field.unobserve(self._on_typed, "value")
        self._field.value = text
        self._field.observe(self._on_typed, "value")

    def _on_typed(self, change: Any) -> None:
        self._choose(change["new"])


class ChoicesOrText:
    """A row of choices, and a field for a value that is none of them."""

    def __init__(self, option: Option, why: Why, label: str, example: str, choose: Choose) -> None:
        self._option = option
        self._choices = Choices(self._listed(why), choose)
        self._text = Text(option, label, example, choose)
        self.widget = box(self._choices.widget, self._text.widget, kind="either")

    def show(self, value: Any, in_force: Any, why: Why) -> None:
        """Show the value chosen, in its place."""
        self._choices.show(value, in_force, self._listed(why))
        if value in self._option.choices:
            self._text.show_empty(value)
        else:
            self._text.show(value, in_force, why)

    def _listed(self, why: Why) -> Why:
        return {choice: why[choice] for choice in self._option.choices}


Control = Choices | ChoicesOrText | Number | Text


def _reads_as(option: Option, text: str, value: Any) -> bool:
    try:
        return option.read(text) == value
    except ConfigError:
        return False


def _mark(one: ipywidgets.Button, is_chosen: bool) -> None:
    if is_chosen:
        one.add_class("accelnb-chosen")
    else:
        one.remove_class("accelnb-chosen")
