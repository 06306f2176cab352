"""How a cell on this rank is interrupted: by a signal, then by ending what it waits for."""

from __future__ import annotations

# signal itself makes enums of all it returns, which takes 30 µs a cell.
import _signal  # pyright: ignore[reportMissingImports]
import signal
import threading
from collections.abc import Callable
from typing import Any

# Stops the main thread, whatever a cell has made of SIGINT. By default it is ignored, and nothing
# else uses it: Go's runtime has chosen it for the same reasons.
_STOP = signal.SIGURG
_OURS = (int(signal.SIGINT), int(_STOP))
# An interrupt that Python has not noticed after this long finds the main thread in C++ code.
_NOTICE = 0.2
_CLEAN_UP = 1.2

Handler = Callable[..., Any]


def listen(handler: Handler) -> None:
    """Have `handler` called for an interrupt; what a cell has set instead does not outlive it."""
    for number in _OURS:
        if _signal.getsignal(number) != handler:
            _signal.signal(number, handler)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _OURS)


class Interrupt:
    """An interrupt of the cell under way, and how far it got.

    Parameters
    ----------
    request
        The cell's.
    handler
        What `listen` was given.
    unstick
        Ends what the main thread waits for in C++ code; returns whether there was anything.

    Attributes
    ----------
    noticed : threading.Event
        To be set by the handler.
    next_step : float
        When to call `step` again (`time.monotonic`).
    """

    def __init__(self, request: str, handler: Handler, unstick: Callable[[], bool]) -> None:
        self.request = request
        self.noticed = threading.Event()
        self.next_step = 0.0
        self._handler, self._unstick = handler, unstick
        self._cleaning_up = self._unstuck = False

    def step(self, now: float) -> None:
        if not self.next_step:
            patience = self._begin()
        elif self.noticed.is_set() and not self._cleaning_up:
            self._cleaning_up, patience = True, _CLEAN_UP  # its own `finally` gets a while
        else:
            self._go_on()
            patience = _NOTICE
        self.next_step = now + patience

    def _begin(self) -> float:
        """Signal the main thread; return how long it has to end the cell."""
        of_sigint = signal.getsignal(signal.SIGINT)
        if callable(of_sigint) and of_sigint != self._handler:
            _send(signal.SIGINT)  # as in a notebook, the cell's own handler is called
            return _CLEAN_UP
        _send(_STOP)  # not SIGINT: it may be ignored, blocked, or end the process
        return _NOTICE

    def _go_on(self) -> None:
        first = self._unstick() and not self._unstuck
        self._unstuck |= first
        if not first:  # else what was sent before is seen now that the wait is over
            _send(_STOP)


def _send(number: int) -> None:
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, number)
