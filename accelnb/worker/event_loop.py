"""The asyncio loop of a rank: one for its life, so that a cell can await what an earlier one began.

It runs while a cell awaits, and between two cells as long as it has something to do. A cell
without ``await`` finds no loop running, unlike in Jupyter, so that ``asyncio.run`` works there; a
task that it makes begins at the cell's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

_LAST = 0.3  # s for tasks to end with their rank


class CellLoop:
    """Runs what cells await and the tasks that they leave.

    Parameters
    ----------
    on_call
        Called where another thread gives the loop something to do while it does not run.
    """

    def __init__(self, on_call: Callable[[], None]) -> None:
        self._on_call = on_call
        self._cell: asyncio.Task[Any] | None = None  # while it awaits
        self._stopped = False  # the cell is to learn of it
        self._between_cells = False
        self._loop = _Loop(on_call)
        _let_create_task_find(lambda: self._loop)

    def begin_cell(self) -> None:
        """Make this loop the current one again, whatever the cell before did to it."""
        if self._loop.is_closed():
            self._loop = _Loop(self._on_call)
        asyncio._set_running_loop(None)  # an interrupt may have come while a loop was left
        asyncio.set_event_loop(self._loop)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a cell that awaits until it is done."""
        self._stopped = False
        self._cell = cell = self._loop.create_task(self._whole(coroutine))
        try:
            while True:
                try:
                    return self._loop.run_until_complete(cell)
                except KeyboardInterrupt:  # raised in another task
                    if cell.done():
                        _ = cell.cancelled() or cell.exception()  # it needs not to be told of
                        raise
                    self._stopped = cell.cancel()
        except asyncio.CancelledError:
            if self._stopped:  # before its first line
                raise KeyboardInterrupt from None
            raise
        finally:
            self._cell = None

    def interrupt(self) -> bool:
        """Let a cell that awaits raise KeyboardInterrupt where it does; for a signal's handler.

        Returns
        -------
        done : bool
            If not, code of the cell or of a task runs just now, and the handler is to raise.
        """
        if not self._loop.is_running() or asyncio.current_task(self._loop) is not None:
            return False
        if self._stopped or not (self._cell or self._between_cells):
            return False  # the first one did not help: a callback may run
        # Raised now, inside the loop's own code, it could lose what the loop has in hand.
        self._stopped = True
        if self._cell is not None:
            self._cell.cancel()
            self._loop.call_soon_threadsafe(lambda: None)  # it may be in select(2)
        return True

    # ---- between cells ----

    @property
    def has_work(self) -> bool:
        return not self._loop.is_closed() and self._loop.has_work

    def run_until(self, begin: Callable[[Callable[[], None]], bool]) -> None:
        """Run tasks until another thread calls what `begin` is given, if `begin` returns True."""
        loop = self._loop
        woken = loop.create_future()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(lambda: woken.done() or woken.set_result(None))

        self._between_cells, self._stopped = True, False
        try:
            if begin(wake):
                with contextlib.suppress(RuntimeError):  # a task stopped the loop
                    loop.run_until_complete(woken)
        finally:
            self._between_cells = False

    def close(self) -> None:
        """Cancel what is left and give it a moment; then forget it, without a word."""
        if self._loop.is_closed():
            return
        if tasks := asyncio.all_tasks(self._loop):
            for task in tasks:
                task.cancel()
            with contextlib.suppress(Exception, KeyboardInterrupt):
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=_LAST))
            for task in tasks:
                task._log_destroy_pending = False  # type: ignore[attr-defined]

    async def _whole(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return await self._steered(coroutine)

    @types.coroutine
    def _steered(self, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Run `coroutine`; if it is stopped, raise KeyboardInterrupt in it where it waits."""
        step: Callable[[], Any] = functools.partial(coroutine.send, None)
        while True:
            try:
                waits_for = step()
            except StopIteration as end:
                return end.value
            try:
                step = functools.partial(coroutine.send, (yield waits_for))
            except asyncio.CancelledError as error:
                raised, self._stopped = (KeyboardInterrupt() if self._stopped else error), False
                step = functools.partial(coroutine.throw, raised)
            except BaseException as error:
                step = functools.partial(coroutine.throw, error)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, on_call: Callable[[], None]) -> None:
        super().__init__()
        self._on_call = on_call

    def call_soon_threadsafe(self, *args: Any, **options: Any) -> asyncio.Handle:
        handle = super().call_soon_threadsafe(*args, **options)
        if not self.is_running():
            self._on_call()
        return handle

    @property
    def has_work(self) -> bool:
        """Whether a task, a timer, a callback or a socket waits for the loop to run."""
        own = 1  # the pipe by which other threads wake it
        watched = len(self._selector.get_map())  # type: ignore[attr-defined]
        queued = self._ready or self._scheduled  # type: ignore[attr-defined]
        return bool(queued) or watched > own or bool(asyncio.all_tasks(self))


def _let_create_task_find(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Have ``asyncio.create_task`` use this loop in the main thread where none is running."""
    create = asyncio.tasks.create_task

    @functools.wraps(create)
    def create_task(coro: Any, **options: Any) -> asyncio.Task[Any]:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and asyncio._get_running_loop() is None:
            return loop().create_task(coro, **options)
        return create(coro, **options)

    asyncio.create_task = asyncio.tasks.create_task = create_task
