"""What the main thread waits for outside of collectives: another rank's message, a store's key.

gloo's flight recorder does not tell these, so torch's own methods are wrapped: they note what is
waited for while the main thread is inside them. Where torch lets us, they wait so that a signal
ends it; else the connection has to be broken, which `Wait.breaks` says.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, NamedTuple

import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

# A store is asked again and again: first often, for most keys come at once.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0002, 0.02


class Wait(NamedTuple):
    """A wait of the main thread.

    Attributes
    ----------
    what : str
        For example ``recv from rank 1``.
    peers : tuple of int
        The ranks that could end it, as far as they are known.
    breaks : str
        Which connections have to be broken to end it: those of the ``group``, those of the
        ``store``, or none (empty), if a signal ends it.
    """

    what: str
    peers: tuple[int, ...] = ()
    breaks: str = ""


class Waits:
    """Notes the waits of the main thread.

    Parameters
    ----------
    interrupted
        Called instead of a wait's own error when `stopped` is set; raises KeyboardInterrupt.
    give_up
        Called when a wait was left whose operation cannot be taken back: the group is unusable.

    Attributes
    ----------
    count : int
        How many began.
    stopped : bool
        Connections were broken to end the cell, so that errors of waits are no errors.
    """

    def __init__(self, interrupted: Callable[[], None], give_up: Callable[[], None]) -> None:
        self.count = 0
        self.stopped = False
        self._interrupted, self._give_up = interrupted, give_up
        self._main = threading.main_thread().ident
        self._under_way: list[Wait] = []
        self._messages: weakref.WeakKeyDictionary[dist.Work, Wait] = weakref.WeakKeyDictionary()
        self._wrap_messages()

    def begin(self) -> None:
        """Take note that a new cell begins."""
        self.stopped = False
        self._under_way.clear()

    def now(self) -> Wait | None:
        """Return the innermost wait; for any thread."""
        innermost = self._under_way[-1:]
        return innermost[0] if innermost else None

    @property
    def concerns_this_thread(self) -> bool:
        return threading.get_ident() == self._main

    @contextlib.contextmanager
    def noted(self, wait: Wait | None) -> Iterator[None]:
        """Note `wait` while the block runs in the main thread."""
        __tracebackhide__ = True
        if not self.concerns_this_thread:
            wait = None
        try:
            if wait is not None:
                self.count += 1
                self._under_way.append(wait)
            yield
        except RuntimeError:
            if self.stopped and self.concerns_this_thread:
                self._interrupted()
            raise
        finally:
            if wait is not None and wait in self._under_way:
                self._under_way.remove(wait)

    def until(
        self, done: Callable[[], bool], wait: Wait, timeout: timedelta, too_long: Exception
    ) -> None:
        """Ask until `done` is true, at most for `timeout`; zero is no limit, as in torch."""
        __tracebackhide__ = True
        if done():
            return
        end = time.monotonic() + (timeout.total_seconds() or float("inf"))
        pause = _FIRST_PAUSE
        with self.noted(wait):
            while not done():
                if time.monotonic() >= end:
                    raise too_long
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    # ---- messages between ranks ----

    def _wrap_messages(self) -> None:
        for name, verb in (("send", "send to"), ("recv", "recv from")):
            wrap(dist.ProcessGroup, name, functools.partial(self._message, verb))
        wrap(dist.ProcessGroup, "recv_anysource", self._message_of_any)
        wrap(dist.ProcessGroup, "monitored_barrier", self._monitored_barrier)
        wrap(dist.Work, "wait", self._wait_for_work)

    def _message(self, verb: str, method: Any, group: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        work = method(group, *args, **kwargs)
        if work is not None:
            named = kwargs.get("dstRank", kwargs.get("srcRank", 0))
            rank = _rank_of(group, args[1] if len(args) > 1 else named)
            self._messages[work] = Wait(f"{verb} rank {rank}", (rank,), breaks="group")
        return work

    def _message_of_any(self, method: Any, group: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        work = method(group, *args, **kwargs)
        if work is not None:
            self._messages[work] = Wait("recv from any rank", _others(group))
        return work

    def _wait_for_work(self, method: Any, work: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        wait = self._messages.get(work)
        with self.noted(wait):
            if wait is None or wait.breaks or not self.concerns_this_thread:
                return method(work, *args, **kwargs)
            # gloo does not end it when connections break.
            return self._in_thread(functools.partial(method, work, *args, **kwargs))

    def _monitored_barrier(self, method: Any, group: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        peers = _others(group) if group.rank() == 0 else (_rank_of(group, 0),)
        with self.noted(Wait("monitored_barrier", peers, breaks="group")):
            return method(group, *args, **kwargs)

    def _in_thread(self, call: Callable[[], Any]) -> Any:
        """Return what `call` returns; an interrupt leaves it behind, in a thread of its own."""
        __tracebackhide__ = True
        result: Future[Any] = Future()

        def run() -> None:
            try:
                result.set_result(call())
            except BaseException as error:
                result.set_exception(error)

        threading.Thread(target=run, name="accelnb-wait", daemon=True).start()
        try:
            concurrent.futures.wait([result])
        except BaseException:
            self._give_up()
            raise
        if (error := result.exception()) is not None:
            raise error
        return result.result()


def wrap(owner: Any, name: str, instead: Callable[..., Any]) -> None:
    """Have ``instead(method, ...)`` called for a method of torch's, if this torch has it."""
    if (method := getattr(owner, name, None)) is None:
        return

    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return instead(method, *args, **kwargs)

    setattr(owner, name, wrapped)


def _rank_of(group: Any, rank_in_group: int) -> int:
    for rank, of_group in c10d._world.pg_group_ranks.get(group, {}).items():
        if of_group == rank_in_group:
            return rank
    return rank_in_group


def _others(group: Any) -> tuple[int, ...]:
    ranks = c10d._world.pg_group_ranks.get(group, {})
    return tuple(rank for rank, of_group in sorted(ranks.items()) if of_group != group.rank())
