"""A run that goes on in the background: one display, updated in place until it is over."""

from __future__ import annotations

import contextvars
import re
import threading
import time
from collections.abc import Sequence

from IPython.display import publish_display_data

from accelnb.engine.events import Display, Event, Skipped, Stalled, Stream, Streamed
from accelnb.engine.failure import RankError, RunInterrupted, name_ranks, rank_list
from accelnb.engine.run import Run
from accelnb.notebook.views.metrics_board import Board
from accelnb.notebook.views.plain import View
from accelnb.notebook.views.tail import Tail
from accelnb.notebook.views.updated_display import new_area

_REDRAW_EVERY = 0.5  # s
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class DetachedView:
    """Shows how a run is doing, its last lines and its streamed values, at one place."""

    def __init__(self, run: Run, title: str) -> None:
        self._run = run
        self._title = title
        self._area = new_area()
        self._tail = Tail(self._label, run.log.folder)
        self._board = Board(run.streamed, self._label)
        self._notes: list[str] = []
        self._due = 0.0

    def show(self, event: Event) -> None:
        if isinstance(event, Stream):
            self._tail.add((event.rank, event.name), event.text)
        elif isinstance(event, Skipped):
            self._tail.skip(event.lines)
        elif isinstance(event, Streamed):
            self._board.changed(event.names)
        elif isinstance(event, Stalled):
            self._notes = [event.report]
        elif isinstance(event, Display):
            self._show_display(event)

    def tick(self) -> float:
        """Draw if it is time to; return the seconds until it is again."""
        now = time.monotonic()
        if now >= self._due:
            self._draw()
            self._due = now + _REDRAW_EVERY
        return self._due - now

    def _draw(self) -> None:
        run = self._run
        seconds = f"{run.seconds:.0f} s" if run.done else f"for {run.seconds:.0f} s"
        lines = [f"{self._title} on {name_ranks(run.ranks)}: {run.state} {seconds}"]
        lines += [*self._board.lines(), *self._tail.lines(), *self._notes]
        self._area.show("\n".join(lines))
        self._board.draw_images()

    def close(self) -> None:
        self._notes = []
        try:
            self._run.raise_if_failed()
        except (RankError, RunInterrupted) as error:
            self._notes = [_COLOURS.sub("", line) for line in error._render_traceback_()]
        if self._run.log.problem:
            self._notes.append(self._run.log.problem)
        self._draw()
        self._area.close()

    def _show_display(self, event: Display) -> None:
        data, metadata = event.content.get("data"), event.content.get("metadata")
        if not data:
            return
        display_id = (event.content.get("transient") or {}).get("display_id")
        if display_id is None and set(data) == {"text/plain"}:
            self._tail.add((event.rank, "value"), data["text/plain"] + "\n")
            return
        if "text/plain" in data:
            data = data | {"text/plain": self._label([event.rank]) + data["text/plain"]}
        transient = {"display_id": f"rank{event.rank}-{display_id}"} if display_id else {}
        is_update = event.kind == "update_display_data"
        publish_display_data(data, metadata, transient=transient, update=is_update)

    def _label(self, ranks: Sequence[int]) -> str:
        return f"[{rank_list(ranks)}] "


def follow_in_background(run: Run, view: View) -> None:
    """Draw `view` until the run is over, in a thread; return at once."""
    view.tick()
    # What the thread shows belongs to the cell that started the run.
    cell = contextvars.copy_context()
    threading.Thread(
        target=cell.run, args=(_follow, run, view), name="accelnb-view", daemon=True
    ).start()


def _follow(run: Run, view: View) -> None:
    patience = _REDRAW_EVERY
    while not run.finished:
        if (event := run.next_event(patience)) is not None:
            view.show(event)
        patience = view.tick()
    view.close()
