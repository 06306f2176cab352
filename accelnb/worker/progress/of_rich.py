"""rich.progress in a rank: tasks tell their state instead of being drawn."""

from __future__ import annotations

import functools
import io
import threading
from types import ModuleType
from typing import Any

from accelnb.worker.output import PipeWriter
from accelnb.worker.progress.bars import Bars, ToldBar, current_bars, state

_WIDTH = 80
_MOST_A_SECOND = 10
_OF_BYTES = ("DownloadColumn", "FileSizeColumn", "TotalFileSizeColumn", "TransferSpeedColumn")


def hook(module: ModuleType) -> None:
    """Have ``rich.progress.Progress`` tell its tasks' states while it is live."""
    cls = module.Progress
    start, stop = cls.start, cls.stop

    @functools.wraps(start)
    def told_start(self: Any) -> None:
        bars = current_bars()
        is_for_rank = isinstance(self.console.file, PipeWriter)
        if bars is not None and is_for_rank and not isinstance(self.live, _ToldLive):
            self.live = _ToldLive(self, self.live, bars)
        start(self)

    @functools.wraps(stop)
    def told_stop(self: Any) -> None:
        if not isinstance(self.live, _ToldLive):
            stop(self)
            return
        self.live.stop()
        self.live = self.live.drawn

    cls.start, cls.stop = told_start, told_stop


class _ToldLive:
    """Stands in for the `rich.live.Live` of a progress display.

    Attributes
    ----------
    drawn
        The one it stands in for, whose settings are its own.
    """

    def __init__(self, progress: Any, drawn: Any, bars: Bars) -> None:
        from rich.console import Console

        self.drawn = drawn
        self.is_started = False
        self._progress = progress
        self._bars = bars
        self._told: dict[int, ToldBar] = {}  # by task
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._page = io.StringIO()
        self._printer = Console(
            file=self._page, width=_WIDTH, color_system=None, force_jupyter=False
        )
        columns = {type(column).__name__ for column in progress.columns}
        self._unit = "B" if columns & set(_OF_BYTES) else "it"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.drawn, name)

    def start(self, refresh: bool = False) -> None:
        if self.is_started:
            return
        self.is_started = True
        self.refresh()
        if self.drawn.auto_refresh:
            threading.Thread(
                target=self._keep_refreshing, name="accelnb-rich-progress", daemon=True
            ).start()

    def stop(self) -> None:
        with self._lock:
            self.refresh()
            self.is_started = False
            self._ended.set()
            for bar in self._told.values():
                self._close(bar, stays=not self.drawn.transient)
            self._told.clear()

    def refresh(self) -> None:
        with self._lock:
            if not self.is_started:
                return
            tasks = {task.id: task for task in self._progress.tasks if task.visible}
            for task in tasks.values():
                self._tell(task)
            for task_id in self._told.keys() - tasks.keys():  # removed, or hidden
                self._close(self._told.pop(task_id), stays=False)

    def _keep_refreshing(self) -> None:
        every = 1 / min(self.drawn.refresh_per_second, _MOST_A_SECOND)
        while not self._ended.wait(every):
            self.refresh()

    def _tell(self, task: Any) -> None:
        from rich.text import Text

        bar = self._told.setdefault(task.id, ToldBar())
        label = Text.from_markup(task.description).plain
        rate = task.finished_speed or task.speed
        new = state(label, task.completed, task.total, self._unit, rate, "", closed=False)
        is_over = task.finished or not bar.is_open
        if is_over and bar.state is not None and new.same_progress(bar.state):
            return  # drawing is slow
        self._bars.tell(bar, new._replace(text=self._drawn_text(task)))

    def _drawn_text(self, task: Any) -> str:
        self._page.seek(0)
        self._page.truncate()
        self._printer.print(self._progress.make_tasks_table([task]))
        return " ".join(self._page.getvalue().split("\n")).rstrip()

    def _close(self, bar: ToldBar, stays: bool) -> None:
        if bar.state is not None:
            text = bar.state.text if stays else ""
            self._bars.tell(bar, bar.state._replace(closed=True, text=text))
