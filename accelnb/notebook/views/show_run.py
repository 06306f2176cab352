"""Which view shows a run: what the front end can, without being asked."""

from __future__ import annotations

from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.getipython import get_ipython

from accelnb.engine.run import Run
from accelnb.jupyter.front_ends import shows_widgets
from accelnb.notebook.views.detached import DetachedView, follow_in_background
from accelnb.notebook.views.plain import PlainView, View
from accelnb.options.config import LaunchConfig


def view_of(run: Run, config: LaunchConfig, title: str = "") -> View:
    """Return what shows a run while its cell waits for it.

    Parameters
    ----------
    config
        What the run was started with.
    title
        The cell's, such as ``Cell In[5]``.
    """
    if not _shows_live():
        return PlainView(run, config.logs)
    from accelnb.notebook.views.live import LiveView
    from accelnb.notebook.views.run_state import RunState

    return LiveView(run, RunState(run, config, title))


def show_in_background(run: Run, config: LaunchConfig, title: str) -> None:
    """Show a run that goes on after its cell, until it is over; return at once."""
    if not _shows_live():
        follow_in_background(run, DetachedView(run, title))
        return
    from accelnb.notebook.views.live import BackgroundView
    from accelnb.notebook.views.run_state import RunState

    follow_in_background(run, BackgroundView(run, RunState(run, config, title)))


def run_html(run: Run) -> dict[str, str]:
    """Return a run that is over as HTML, for a cell that ends with it."""
    if run.shown is None or not run.done:
        return {}
    from accelnb.notebook.views.static_html import html_of

    return {"text/html": html_of(run.shown)}


def _shows_live() -> bool:
    """Tell whether the front end has widgets, and the cell's output goes there (%%capture)."""
    shell = get_ipython()
    publisher = getattr(shell, "display_pub", None)
    return shows_widgets() and not isinstance(publisher, CapturingDisplayPublisher)
