"""The next block's weights are fetched while the current one computes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Any

import torch

from accelnb.big_model.needed_weights import NeededWeights

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class _Call:
    """A hook's turn in a pass, and what it needed."""

    hook: Any
    needed: NeededWeights


class FetchingAhead:
    """Fetches for the hooks of one model, in the order in which they came in the pass before.

    A pass is the forward pass of the outermost module that has a hook. At most as much is fetched
    ahead as the block with most needs, and nothing beyond the end of the pass. Where modules come
    in another order, what they need is read when they need it.
    """

    def __init__(self) -> None:
        self._orders: dict[Any, list[_Call]] = {}
        self._pass: _Pass | None = None
        self._trust = _Trust()

    def enter(self, hook: Any) -> None:
        """Begin a pass, if this hook's module is the outermost one."""
        current = self._pass
        if current is not None and current.outermost is not hook:
            return
        if current is not None:  # it ended with an error
            current.end()
        self._pass = _Pass(hook, self._orders.get(hook, ()), self._trust)

    def leave(self, hook: Any) -> None:
        """End the pass that this hook has begun."""
        current = self._pass
        if current is not None and current.outermost is hook:
            current.end()
            self._orders[hook] = current.calls
            self._pass = None

    def take(self, hook: Any, needed: NeededWeights) -> Weights:
        """Return what was fetched for a hook, or else what it needs; fetch for the next ones."""
        if self._pass is None:
            return needed.received(needed.read())
        return self._pass.take(_Call(hook, needed))

    def __reduce__(self) -> Any:
        return FetchingAhead, ()  # a copy of a model learns for itself


class _Trust:
    """Which hooks come often enough after the ones before them, as a chosen expert may not."""

    def __init__(self) -> None:
        self.came: Counter[Any] = Counter()
        self.wasted: Counter[Any] = Counter()

    def __contains__(self, hook: Any) -> bool:
        return self.wasted[hook] <= self.came[hook]


class _Pass:
    """One forward pass of the outermost module."""

    def __init__(self, outermost: Any, order: Sequence[_Call], trust: _Trust) -> None:
        self.outermost = outermost
        self.calls: list[_Call] = []
        self._order = order
        self._trust = trust
        self._place = 0  # in the order: where the next hook is expected
        self._ahead = 0  # in the order: what was not thought of yet
        self._fetched: dict[int, Future[Weights]] = {}
        self._most = max((call.needed.nbytes for call in order), default=0)
        self._thread = _Background()

    def take(self, call: _Call) -> Weights:
        self.calls.append(call)
        fetched = self._expected(call)
        weights = fetched.result() if fetched is not None else call.needed.read()
        self._fetch_next()
        return call.needed.received(weights)

    def _expected(self, call: _Call) -> Future[Weights] | None:
        """Find a hook in the order, and return what was fetched for it."""
        places = range(self._place, len(self._order))
        place = next((at for at in places if self._order[at].hook is call.hook), None)
        if place is None:
            return None
        for passed_over in range(self._place, place):
            self._drop(passed_over)
        self._place = place + 1
        self._ahead = max(self._ahead, self._place)
        self._trust.came[call.hook] += 1
        fetched = self._fetched.pop(place, None)
        # Its weights may have become others, or its device, since it came last.
        return fetched if self._order[place].needed.is_as(call.needed) else None

    def _fetch_next(self) -> None:
        waiting = sum(self._order[place].needed.nbytes for place in self._fetched)
        while self._ahead < len(self._order):
            call = self._order[self._ahead]
            if call.needed.names and call.hook in self._trust:
                waiting += call.needed.nbytes
                if waiting > self._most:
                    return
                self._fetched[self._ahead] = self._thread.start(call.needed.read)
            self._ahead += 1

    def _drop(self, place: int) -> None:
        fetched = self._fetched.pop(place, None)
        if fetched is not None:
            fetched.cancel()
            self._trust.wasted[self._order[place].hook] += 1

    def end(self) -> None:
        for place in list(self._fetched):
            self._drop(place)


class _Background:
    """Calls made one after the other in a thread, which ends when there are no more."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._calls: deque[tuple[Callable[[], Weights], Future[Weights]]] = deque()
        self._works = False

    def start(self, call: Callable[[], Weights]) -> Future[Weights]:
        future: Future[Weights] = Future()
        with self._lock:
            self._calls.append((call, future))
            if not self._works:
                Thread(target=self._work, name="accelnb-fetching-ahead").start()
                self._works = True
        return future

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._calls:
                    self._works = False
                    return
                call, future = self._calls.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
            del call, future  # or the thread holds the weights
