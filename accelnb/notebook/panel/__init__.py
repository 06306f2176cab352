"""The panel of `%accelnb`: what this machine offers, what to choose, whether it works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accelnb.jupyter import front_ends

if TYPE_CHECKING:
    from accelnb.notebook.session import Session


def show(session: Session) -> None:
    """Display the panel of a notebook; one that it had open elsewhere is closed.

    Parameters
    ----------
    session
        The notebook's session: the panel starts from its defaults and changes them.
    """
    from accelnb.notebook.panel.panel import open_panel

    front_ends.prepare_widgets()
    open_panel(session)
