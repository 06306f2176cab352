"""The controls: a row for each option, with what it means or why it is wrong below it."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from typing import Any

from accelnb.devices.hardware import Hardware
from accelnb.notebook.panel.config_draft import BY_NAME, Draft
from accelnb.notebook.panel.controls import Choices, ChoicesOrText, Control, Number, Text
from accelnb.notebook.panel.elements import Message, box, markup
from accelnb.notebook.panel.sharding_note import meaning_of_mesh, memory_by_strategy
from accelnb.options.config import LaunchConfig

# The options that the panel offers, in its order; the others keep their values.
LABELS = {
    "device": "Device",
    "procs": "Processes",
    "precision": "Precision",
    "outputs": "Outputs",
    "strategy": "Strategy",
    "mesh": "Mesh",
    "accumulation": "Accumulation",
    "cluster": "Cluster",
    "nodes": "Nodes",
}
_MESH_EXAMPLE = "none, or e.g. dp_shard=2,tp=2"
# What an option means on this machine, with the others as they are chosen.
_MEANINGS = {"mesh": meaning_of_mesh, "strategy": memory_by_strategy}
_CLUSTER_EXAMPLE = "ray://HOST:PORT"


class Row:
    """The label and control of an option, and below them its description.

    Parameters
    ----------
    name
        Of the option.
    why
        Its choices, if it has some.
    choose
        Called with the value that the user gave.
    """

    def __init__(
        self, name: str, why: Mapping[str, str | None] | None, choose: Callable[[Any], None]
    ) -> None:
        self._name, self._help = name, BY_NAME[name].help
        label, option = LABELS[name], BY_NAME[name]
        self._control: Control
        if name == "cluster":
            assert why is not None
            self._control = ChoicesOrText(option, why, "Address", _CLUSTER_EXAMPLE, choose)
        elif why is not None:
            self._control = Choices(why, choose)
        elif name == "mesh":
            self._control = Text(option, label, _MESH_EXAMPLE, choose)
        else:
            self._control = Number(option, label, choose)
        # A number and a text bring a label of their own, which the browser ties to the field.
        name_of_row = () if why is None else (markup(f"<span>{label}</span>", kind="label"),)
        self._note = markup(kind="note")
        self.widget = box(*name_of_row, self._control.widget, self._note, kind="row")

    def show(self, draft: Draft) -> None:
        """Show the option as the draft has it."""
        name, why = self._name, draft.why.get(self._name, {})
        if name not in draft.unread:
            self._control.show(getattr(draft.config, name), draft.in_force(name), why)
        error, moved = draft.errors.get(name), draft.moved.get(name)
        if error is not None:
            first = f'<span class="accelnb-bad">{html.escape(error)}</span>'
        elif moved is not None:
            first = f'<span class="accelnb-warn">{html.escape(moved)}</span>'
        else:
            first = html.escape(self._help)
        means = "" if error is not None else _meaning(name, draft)
        self._note.value = f"<div>{first}</div>{means}{_inactive(why)}"


class Form:
    """All rows over one draft.

    Parameters
    ----------
    config
        Where the draft starts.
    hardware
        What this machine has.
    message
        Where an error of a control's callback is said.
    on_change
        Called after each choice.
    """

    def __init__(
        self,
        config: LaunchConfig,
        hardware: Hardware,
        message: Message,
        on_change: Callable[[], None],
    ) -> None:
        self.draft = Draft(config, hardware)
        self._message, self._on_change = message, on_change
        self._rows = [Row(name, self.draft.why.get(name), self._chooser(name)) for name in LABELS]
        self.widget = box(*(row.widget for row in self._rows), kind="form")
        self.show()

    def show(self) -> None:
        """Show the draft in every row."""
        for row in self._rows:
            row.show(self.draft)

    def check_again(self) -> None:
        """Check and show the draft again: what is known of its cluster may have changed."""
        self.draft.check()
        self.show()

    def _chooser(self, name: str) -> Callable[[Any], None]:
        def choose(value: Any) -> None:
            def change() -> None:
                self.draft.choose(name, value)
                self.show()
                self._on_change()

            self._message.guard(change)()

        return choose


def _meaning(name: str, draft: Draft) -> str:
    """Say what an option means, as far as that is known."""
    resolved = draft.resolved
    said = _MEANINGS[name](resolved) if name in _MEANINGS and resolved is not None else ""
    return f'<div class="accelnb-means">{html.escape(said)}</div>' if said else ""


def _inactive(why: Mapping[str, str | None]) -> str:
    """Say why choices are inactive, those with one reason together."""
    by_reason: dict[str, list[str]] = {}
    for choice, reason in why.items():
        if reason is not None:
            by_reason.setdefault(reason, []).append(choice)
    return "".join(
        f'<div class="accelnb-why"><b>{html.escape(", ".join(choices))}</b> '
        f"{html.escape(reason)}</div>"
        for reason, choices in by_reason.items()
    )
