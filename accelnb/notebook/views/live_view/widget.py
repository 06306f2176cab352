"""The live view in the front end: an anywidget that is told what changes."""

from __future__ import annotations

import collections
import functools
import time
from collections.abc import Callable
from typing import Any

from accelnb.jupyter.assets import asset
from accelnb.jupyter.front_ends import prepare_widgets
from accelnb.notebook.views.live_view.run_state import Bounds, RunState, Seen

WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
# While the front end loads the widget it may miss updates: each then tells all from the start.
_OPENING = 3.0
_OPENING_BOUNDS = Bounds(lines=500, characters=60_000, points=2_000)
# Of a run that is over a page that is loaded again still shows the widget, if there was no
# time to save its last state as text. So many are kept.
_KEPT = 10


@functools.cache
def _widget_class() -> type:
    import anywidget
    import traitlets

    class RunWidget(anywidget.AnyWidget):
        _esm = asset("widgets/dist/run.js").read_text(encoding="utf-8")
        _css = asset("widgets/dist/run.css").read_text(encoding="utf-8")
        info = traitlets.Dict().tag(sync=True)
        status = traitlets.Dict().tag(sync=True)
        rows = traitlets.List().tag(sync=True)
        bars = traitlets.List().tag(sync=True)
        delta = traitlets.Dict().tag(sync=True)

    return RunWidget


def load() -> None:
    """Import what a widget needs; it takes a moment the first time."""
    _widget_class()


class LiveWidget:
    """Tells the front end what changes in a run's state.

    Parameters
    ----------
    can_stop
        Whether the front end's messages are heard while the run goes on.
    stop
        Stops the run.

    Raises
    ------
    AccelnbError
        The front end's part is not installed.
    """

    def __init__(self, state: RunState, can_stop: bool, stop: Callable[[], None]) -> None:
        prepare_widgets()
        self._state: RunState | None = state
        self._stop = stop
        self._seen = Seen()
        self._number = 0
        self._version = -1
        self._opened = time.monotonic()
        self._is_cut = False  # the updates so far left something out
        self._last: dict[str, Any] = {}  # the whole, when the run is over
        with state.lock:
            info = state.info(can_stop)
            self._widget = _widget_class()(info=info, **self._traits(state))
        _hear_beside_cells(self._widget.comm)
        self._widget.on_msg(self._on_message)

    @property
    def view(self) -> dict[str, Any]:
        """What a display shows this by, as data of `WIDGET_MIME`."""
        return {"model_id": self._widget.model_id, "version_major": 2, "version_minor": 0}

    def update(self) -> None:
        """Tell what changed; whoever calls this minds the pace."""
        state = self._state
        if state is None:
            return
        with state.lock:
            ends_opening = self._is_cut and time.monotonic() - self._opened >= _OPENING
            if state.version == self._version and not ends_opening:
                return
            traits = self._traits(state)
            with self._widget.hold_sync():
                for name, value in traits.items():
                    setattr(self._widget, name, value)
            if ends_opening:
                self._is_cut = False
                self._widget.send(self._snapshot(state))

    def tell_all(self) -> None:
        """Begin again with the next update: the cell's output was cleared."""
        self._opened = time.monotonic()
        self._version = -1

    def finish(self) -> None:
        """Tell the end of the run, and answer from now on without it."""
        state = self._state
        if state is None:
            return
        self.update()
        with state.lock:
            self._last = self._snapshot(state)
            if self._is_cut:
                self._widget.send(self._last)
            self._state, self._stop = None, _nothing
        _keep(self)

    def close(self) -> None:
        self._widget.close()

    def _traits(self, state: RunState) -> dict[str, Any]:
        self._version = state.version
        rows = state.rows()
        return {
            "status": state.status(rows),
            "rows": rows,
            "bars": state.bars.merged(is_over=state.run.done),
            "delta": self._delta(state),
        }

    def _delta(self, state: RunState) -> dict[str, Any]:
        before, self._number = self._number, self._number + 1
        if time.monotonic() - self._opened >= _OPENING:
            return {"from": before, "to": self._number, **state.news(self._seen)}
        self._seen = Seen()
        news = state.news(self._seen, _OPENING_BOUNDS)
        self._is_cut = state.leaves_out(news)
        return {"from": 0, "to": self._number, **news}

    def _snapshot(self, state: RunState) -> dict[str, Any]:
        return {"type": "snapshot", "from": 0, "to": self._number, **state.news(Seen())}

    def _on_message(self, _: Any, content: Any, __: Any) -> None:
        """Answer the front end, in a thread of the kernel's."""
        kind = content.get("type") if isinstance(content, dict) else None
        state = self._state
        if kind == "stop":
            self._stop()
            if state is not None:
                state.version += 1
                self.update()
        elif kind == "snapshot" and state is None:
            self._widget.send(self._last)
        elif kind == "snapshot" and state is not None:
            with state.lock:
                self._widget.send(self._snapshot(state))


def _hear_beside_cells(comm: Any) -> None:
    """Have the front end's messages handled where it sent them: in a subshell.

    ipykernel from 7.4 hands them to the thread that used the comm last. That is the one that
    runs the cell, so that nothing would be heard until the cell's end.
    """
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda data, subshell_id: subshell_id


_finished: collections.deque[LiveWidget] = collections.deque()


def _keep(widget: LiveWidget) -> None:
    _finished.append(widget)
    while len(_finished) > _KEPT:
        _finished.popleft().close()


def _nothing() -> None:
    """Stop nothing: the run is over."""
