"""A run that goes on in the background: one display, updated in place until it is over."""

from __future__ import annotations

import re
import time

from IPython.display import publish_display_data

from accelnb.engine.events import Display, Event, Skipped, Stalled, Stream, Streamed
from accelnb.engine.failure import RankError, RunInterrupted, name_ranks
from accelnb.engine.run import Run
from accelnb.notebook.views.metrics_board import Board
from accelnb.notebook.views.rank_merge import Item, label
from accelnb.notebook.views.text_view.tail import Tail
from accelnb.notebook.views.updated_display import new_area

_REDRAW_EVERY = 0.5  # s
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class DetachedView:
    """Shows how a run is doing, its last lines and its streamed values, at one place."""

    def __init__(self, run: Run, title: str) -> None:
        self._run = run
        self._title = title
        self._area = new_area()
        self._tail = Tail(label, run.log.folder)
        self._board = Board(run.streamed, label)
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
        item = Item.of(event)
        data, metadata, _ = item.body
        if not data:
            return
        if not item.transient and set(data) == {"text/plain"}:
            self._tail.add((event.rank, "value"), data["text/plain"] + "\n")
            return
        if "text/plain" in data:
            data = data | {"text/plain": label([event.rank]) + data["text/plain"]}
        is_update = event.kind == "update_display_data"
        publish_display_data(data, metadata, transient=item.transient, update=is_update)
