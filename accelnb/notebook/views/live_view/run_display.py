"""One place of a notebook where a run is shown: text first, a live widget, then plain HTML."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from accelnb.notebook.views.live_view import widget as widgets
from accelnb.notebook.views.live_view.run_state import RunState
from accelnb.notebook.views.live_view.static_html import html_of, text_of
from accelnb.notebook.views.updated_display import NotebookArea

_SHORT = 0.5  # s; a run that is over by then is shown as its lines
_LOAD_AFTER = 0.15  # s; loading takes a moment, which then passes beside the run
_SHORT_LINES = 2_000


class RunDisplay:
    """Shows a run's state in one output, which changes what it is.

    Parameters
    ----------
    can_stop
        Says whether a message of the widget reaches the kernel while the run goes on; asked
        when there is to be a widget.
    """

    def __init__(self, state: RunState, can_stop: Callable[[], bool]) -> None:
        self._state = state
        self._can_stop = can_stop
        self._area = NotebookArea()
        self._widget: widgets.LiveWidget | None = None
        self._loading: threading.Thread | None = None
        self._broken = False  # the widget failed: text stands in
        state.displays.append(self)

    @property
    def is_settled(self) -> bool:
        """Whether only news of the run change it."""
        return self._widget is not None

    def draw(self) -> None:
        """Show the state as it is now."""
        if self._widget is None and self._wants_widget():
            self.begin_widget()
        elif self._widget is None:
            self._draw_text()
        else:
            self._or_text(self._widget.update)

    def begin_widget(self) -> None:
        """Become a live widget."""
        self._or_text(self._make_widget)

    def draw_anew(self) -> None:
        """Show it again: the cell's output was cleared."""
        self._area.cleared()
        if self._widget is not None:
            self._widget.tell_all()
            self._or_text(self._widget.update)
            self._or_text(self._show_widget)

    def show_fallback(self) -> None:
        """Show what stands in for the widget."""
        self._area.show_data(bundle(self._state))

    def finish(self) -> None:
        """Leave the end state for good."""
        is_short = self._state.run.seconds < _SHORT and not self._state.is_rich
        if self._widget is None and is_short:
            self._draw_text()
            return
        self._or_text(self.show_fallback)
        self.finish_widget()

    def finish_widget(self) -> None:
        """Tell the widget the end of the run."""
        if self._widget is not None:
            self._or_text(self._widget.finish)

    def _make_widget(self) -> None:
        interrupt = self._state.run.interrupt
        self._widget = widgets.LiveWidget(self._state, self._can_stop(), interrupt)
        self._show_widget()

    def _wants_widget(self) -> bool:
        seconds = self._state.run.seconds
        if self._broken or not (self._state.is_rich or seconds >= _LOAD_AFTER):
            return False
        if self._loading is None:
            self._loading = threading.Thread(target=_load, name="accelnb-widget", daemon=True)
            self._loading.start()
        wanted = self._state.is_rich or seconds >= _SHORT
        return wanted and not self._loading.is_alive()

    def _draw_text(self) -> None:
        log = self._state.log
        lines = log.beginning_and_end(_SHORT_LINES) + log.growing(time.monotonic())
        if lines:
            self._area.show_data({"text/plain": "\n".join(log.labelled(lines))})

    def _show_widget(self) -> None:
        if self._widget is not None:
            view = {widgets.WIDGET_MIME: self._widget.view}
            self._area.show_data(view | bundle(self._state))

    def _or_text(self, step: Callable[[], None]) -> None:
        """Take a step or, if it fails, go on as text: that must not end the run.

        What may fail is not ours: ipywidgets, its comm, an installation without the front end.
        """
        try:
            step()
        except Exception as error:
            self._broken, self._widget = True, None
            said = f"{type(error).__name__}: {error}"
            with self._state.lock:
                self._state.log.say(f"accelnb: the live view failed, text stands in: {said}")
            self._draw_text()


def bundle(state: RunState) -> dict[str, Any]:
    """Return what shows a run where there are no widgets."""
    with state.lock:
        return {"text/plain": text_of(state), "text/html": html_of(state)}


def _load() -> None:
    try:
        widgets.load()
    except Exception:
        return  # it is said when the widget is made
