"""A run shown until it is over, in its cell or beside it, by the view that the front end has."""

from __future__ import annotations

import contextvars
import threading

from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.getipython import get_ipython

from accelnb.engine.failure import RunInterrupted
from accelnb.engine.run import Run
from accelnb.jupyter.front_ends import shows_widgets
from accelnb.notebook.views.live_view.run_state import RunState, gathered_of
from accelnb.notebook.views.live_view.static_html import html_of
from accelnb.notebook.views.live_view.view import BackgroundView, LiveView
from accelnb.notebook.views.text_view.detached import DetachedView
from accelnb.notebook.views.text_view.plain import PlainView
from accelnb.options.config import LaunchConfig

View = PlainView | DetachedView | LiveView


def show_run(run: Run, config: LaunchConfig, title: str = "") -> None:
    """Show a run until it is over, then raise what it ended with.

    Ctrl-C, or the stop button, stops the ranks; pressed again it no longer waits for them.

    Parameters
    ----------
    config
        What the run was started with.
    title
        The cell's, such as ``Cell In[5]``.
    """
    live = _shows_live()
    view = LiveView(run, RunState(run, config, title)) if live else PlainView(run, config.logs)
    try:
        _show_all(run, view)
    except KeyboardInterrupt:
        run.interrupt()
        try:
            _show_all(run, view)
        except KeyboardInterrupt:
            raise RunInterrupted("the ranks are still being stopped") from None
    finally:
        run.abandon()
        view.close()
    run.raise_if_failed()


def show_in_background(run: Run, config: LaunchConfig, title: str) -> None:
    """Show a run that goes on after its cell, until it is over; return at once."""
    live = _shows_live()
    view = BackgroundView(run, RunState(run, config, title)) if live else DetachedView(run, title)
    patience = view.tick()

    def follow() -> None:
        _show_all(run, view, patience)
        view.close()

    # What the thread shows belongs to the cell that started the run.
    cell = contextvars.copy_context()
    threading.Thread(target=cell.run, args=(follow,), name="accelnb-view", daemon=True).start()


def run_html(run: Run) -> dict[str, str]:
    """Return a run that is over as HTML, for a cell that ends with it."""
    gathered = gathered_of(run)
    return {"text/html": html_of(gathered)} if gathered is not None and run.done else {}


def _show_all(run: Run, view: View, patience: float = 10.0) -> None:
    """Show all events; wait for the first of them so many seconds, then as the view says."""
    while not run.finished:
        event = run.next_event(patience)
        if event is not None:
            view.show(event)
        patience = view.tick()


def _shows_live() -> bool:
    """Tell whether the front end has widgets, and the cell's output goes there (%%capture)."""
    shell = get_ipython()
    publisher = getattr(shell, "display_pub", None)
    return shows_widgets() and not isinstance(publisher, CapturingDisplayPublisher)
