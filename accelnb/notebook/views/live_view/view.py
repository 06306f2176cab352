"""A run in a notebook with widgets."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from IPython.display import clear_output, publish_display_data

from accelnb.engine.events import Event
from accelnb.engine.failure import RankError, RunInterrupted
from accelnb.engine.run import Run
from accelnb.jupyter.front_ends import has_subshells
from accelnb.notebook.views.live_view.run_display import RunDisplay
from accelnb.notebook.views.live_view.run_state import RunState, state_of
from accelnb.notebook.views.rank_merge import Item

_DRAW_EVERY = 0.105  # s: at most 10 times a second


class LiveView:
    """Shows one run at one place of its cell's output; the ranks' displays come below."""

    def __init__(
        self, run: Run, state: RunState, can_stop: Callable[[], bool] = has_subshells
    ) -> None:
        self._run = run
        self._state = state
        self._own = RunDisplay(state, can_stop)
        self._due = 0.0

    def show(self, event: Event) -> None:
        with self._state.lock:
            self._state.take(event)

    def tick(self) -> float:
        """Show what is due; return the seconds until there may be more."""
        now = time.monotonic()
        if now < self._due:
            return self._due - now
        self._due = now + _DRAW_EVERY
        with self._state.lock:
            self._state.refresh(now)
        self._show_displays()
        for display in self._state.displays:
            display.draw()
        goes_on = self._state.is_drawing(now) or not self._own.is_settled
        return _DRAW_EVERY if goes_on else 10.0

    def close(self) -> None:
        """Leave the end state for good."""
        with self._state.lock:
            self._state.finish(self._last_words())
        self._show_displays()
        for display in self._state.displays:
            display.finish()
        self._state.displays.clear()

    def _last_words(self) -> list[str]:
        return []  # what the run ended with is raised in the cell

    def _show_displays(self) -> None:
        with self._state.lock:
            displays = self._state.log.displays()
        for item, ranks in displays:
            self._show_display(item, ranks)

    def _show_display(self, item: Item, ranks: Sequence[int]) -> None:
        data, metadata, wait = item.body
        if item.name == "clear_output":
            clear_output(bool(wait))
            self._own.draw_anew()
            return
        is_update = item.name == "update_display_data"
        label = self._state.log.label(ranks)
        if set(data) == {"text/plain"}:
            data = {"text/plain": label + data["text/plain"]}
        elif label and not is_update:
            publish_display_data({"text/plain": label.rstrip()})
        publish_display_data(data, metadata, transient=item.transient, update=is_update)


class BackgroundView(LiveView):
    """Shows a run that goes on after its cell: at once, and with the error that may end it."""

    def __init__(self, run: Run, state: RunState) -> None:
        super().__init__(run, state, _always)
        self._own.show_fallback()

    def _last_words(self) -> list[str]:
        try:
            self._run.raise_if_failed()
        except (RankError, RunInterrupted) as error:
            return "\n".join(error._render_traceback_()).split("\n")
        return []


def _always() -> bool:
    """Say that messages are heard: no cell keeps the kernel busy with this run."""
    return True


def show_again(run: Run) -> None:
    """Show a run that is over, or goes on in the background, once more.

    Parameters
    ----------
    run
        Of whatever cell; the front end shows widgets.
    """
    state = state_of(run)
    display = RunDisplay(state, _always)
    display.begin_widget()
    if run.done:  # nobody follows it any more
        display.finish_widget()
        state.displays.clear()
