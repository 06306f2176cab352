"""The thread that carries messages between a notebook and its ranks.

It alone touches the sockets, the workers' state and the run under way, so none of that needs a
lock. Other threads hand it work with `post` and wait on `changed`.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import zmq

from accelnb.engine.events import Event, Progress, Stalled, Stream, Usage, event_of
from accelnb.engine.failure import DIED, Failure
from accelnb.engine.launchers.launcher import LaunchedRanks
from accelnb.engine.progress_bars import OpenBars
from accelnb.engine.run import Run
from accelnb.engine.serialization.pack import Received
from accelnb.engine.stall_report import Place, place_of
from accelnb.engine.stall_watch import SAY_WHERE, StallWatch
from accelnb.engine.stopping import Stopping
from accelnb.engine.wire.lifecycle import Exit
from accelnb.engine.wire.messages import Link, Message
from accelnb.engine.wire.queries import ANSWER, QUERY, Query
from accelnb.engine.wire.reports import Packet
from accelnb.engine.workers import Worker, failure_of

_USAGE_EVERY = 1.0
_LATE_EVENTS = 1000

# What one rank is asked: the message's content and its buffers.
Request = tuple[dict[str, Any], Sequence[bytes | memoryview]]


class Router(threading.Thread):
    """Carries the messages of one group until `close`."""

    def __init__(self, link: Link, launched: LaunchedRanks, ranks: Sequence[int]) -> None:
        super().__init__(name="accelnb-router", daemon=True)
        self.workers = {rank: Worker(rank) for rank in ranks}
        self.changed = threading.Condition()  # notified when a worker is ready or has ended
        self.regroup = False  # the process group is unusable: form it again
        self.orphaned = False  # who started the ranks is gone, and so are they
        self.ending = False  # the ranks are shut down, so that they end is no fault
        self.failed: str | None = None  # why this thread has ended before `close`
        self._link = link
        self._launched = launched
        self._run: Run | None = None
        self._stall_watch = StallWatch(launched.state)
        self._stopping = Stopping()
        self._bars = OpenBars()
        self._usage_at = 0.0  # when memory is to be looked at next
        self._query = Query()  # the newest
        self._requests: set[str] = set()
        self._sequences: dict[int, dict[str, int]] = {}
        self._stopped: set[int] = set()  # ranks that have not been told so yet
        self._late: collections.deque[Event] = collections.deque(maxlen=_LATE_EVENTS)
        self._jobs: collections.deque[Callable[[], object]] = collections.deque()
        self._woken, self._wake = os.pipe()
        self._closing = False

    # ---- for other threads ----

    @property
    def busy(self) -> bool:
        return self._run is not None

    def post(self, job: Callable[[], object]) -> None:
        """Have `job` done in the router's thread."""
        self._jobs.append(job)
        os.write(self._wake, b"x")

    def broadcast(self, kind: str, content: dict[str, Any], ranks: Sequence[int]) -> None:
        self.post(lambda: self._send(kind, content, ranks))

    def begin(self, run: Run, kind: str, requests: Mapping[int, Request]) -> None:
        self._run = run  # at once, so that a second cell is refused
        self.post(lambda: self._begin(run, kind, requests))

    def stop(self, run: Run, reason: str) -> None:
        """Interrupt `run` on every rank that has not finished."""
        if not self._closing:
            self.post(lambda: self._interrupt(run, reason))

    def ask(self, rank: int, content: dict[str, Any]) -> Query:
        """Ask a rank something that it answers between two cells, or not at all."""
        query = self._query = Query()
        self.broadcast(QUERY, content | {"number": query.number}, [rank])
        return query

    def where(self) -> list[Place]:
        """Ask every rank where it is; return within a second or so."""
        asked = time.monotonic()
        self.broadcast("where_request", {}, tuple(self.workers))

        def all_answered() -> bool:
            return self._stall_watch.all_told(asked, tuple(self.workers))

        with self.changed:
            self.changed.wait_for(all_answered, SAY_WHERE)
            return self._stall_watch.told(asked, tuple(self.workers.values()))

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if self.is_alive():
            self.post(lambda: None)
            self.join(5)
        self._link.close()
        for fd in (self._woken, self._wake):
            os.close(fd)
        self._fail_pending(DIED, "was shut down")

    # ---- the thread ----

    def run(self) -> None:
        try:
            self._carry()
        except BaseException as error:
            # Nobody hears the ranks any more: say so instead of waiting for them for ever.
            self.failed = (
                f"the notebook's link to its ranks failed: {type(error).__name__}: {error}"
            )
            self._fail_pending("AccelnbError", self.failed)
            raise

    def _fail_pending(self, ename: str, said: str) -> None:
        run, self._run = self._run, None
        if run is not None:
            for rank in sorted(run.pending):
                run.rank_failed(Failure(rank, ename, said))
            run.finish()

    def _carry(self) -> None:
        poller = zmq.Poller()
        for source in (self._link.socket, self._woken, self._launched.fileno()):
            poller.register(source, zmq.POLLIN)
        while not self._closing:
            ready = dict(poller.poll(self._wait_ms()))
            if self._woken in ready:
                os.read(self._woken, 4096)
                while self._jobs:
                    self._jobs.popleft()()
            if self._link.socket in ready:
                self._receive_all()
            if self._launched.fileno() in ready:
                self._receive_process(poller)
            self._check_deadlines()

    def _receive_all(self) -> None:
        while (message := self._link.receive()) is not None:
            self._on_message(message)

    def _receive_process(self, poller: zmq.Poller) -> None:
        try:
            news = self._launched.receive()
        except EOFError:  # who started the ranks died, and all of them with it
            self.orphaned = True
            poller.unregister(self._launched.fileno())
            for worker in self.workers.values():
                if not worker.exit:
                    self._on_exit(Exit(worker.rank, worker.pid or 0, -9, {}))
            return
        if isinstance(news, Exit):
            # What it sent before it ended is still on its way through the socket.
            self._receive_all()
            self._on_exit(news)
        else:
            rank, pid = news
            self.workers[rank].pid = pid

    def _send(
        self, kind: str, content: dict[str, Any], ranks: Sequence[int], buffers: Sequence[Any] = ()
    ) -> set[str]:
        sent = set()
        for rank in ranks:
            # A rank that cannot be reached is dead: its exit is reported on the other channel.
            with contextlib.suppress(zmq.ZMQError):
                to = self.workers[rank].identity
                sent.add(self._link.send(kind, content, to=to, buffers=buffers))
        return sent

    def _begin(self, run: Run, kind: str, requests: Mapping[int, Request]) -> None:
        self._stall_watch.begin(run.stall)
        self._usage_at = time.monotonic() + _USAGE_EVERY
        self._sequences = {}
        self._bars = OpenBars()
        for worker in self.workers.values():
            worker.last_output = ""
        while self._late:
            run.deliver(self._late.popleft())
        self._requests = set()
        for rank, (content, buffers) in requests.items():
            if rank in self._stopped:  # also those whose own part had ended
                self._stopped.remove(rank)
                content = content | {"after_stop": True}
            self._requests |= self._send(kind, content, [rank], buffers)
        for rank in run.ranks:  # one may have died before it was asked
            if ended := self.workers[rank].exit:
                run.rank_failed(failure_of(ended, self.workers[rank].last_output))
        self._finish_if_over()

    def _on_message(self, message: Message) -> None:
        rank, _, incarnation = message.sender.decode().partition(".")
        worker = self.workers[int(rank)]
        if incarnation != str(worker.incarnation) or worker.exit:
            return  # the last words of a rank that has ended: told with its exit
        content = message.content
        if message.kind == "stream":
            worker.received[content["name"]] = content["upto"]
            self._take_output(worker, content["name"], content["text"])
        elif message.kind == "streamed":
            self._take_streamed(worker.rank, message)
        elif message.kind == "where":
            with self.changed:
                self._stall_watch.take(place_of(worker.rank, content))
                self.changed.notify_all()
        elif message.kind == "formed":
            with self.changed:
                worker.formed = content["generation"]
                self.changed.notify_all()
        elif message.kind == ANSWER:
            self._query.take(content)
        elif message.kind != "execute_reply":
            self._emit(event_of(worker.rank, message.kind, content))
        elif message.parent in self._requests:
            self._on_reply(worker.rank, content, message.buffers)

    def _take_output(self, worker: Worker, name: str, text: str) -> None:
        worker.keep_output(text)
        self._emit(Stream(worker.rank, name, text))

    def _take_streamed(self, rank: int, message: Message) -> None:
        if self._run is not None:
            packets = [Packet(*packet) for packet in pickle.loads(message.buffers[0])]
            self._run.take_streamed(rank, packets, message.content["dropped"])
            self._stall_watch.moved()

    def _emit(self, event: Event) -> None:
        # A bar that only shows the time is no sign of life.
        moved = not isinstance(event, Progress) or self._bars.moved(event)
        if self._run is None:
            self._late.append(event)
            return
        if moved:
            self._stall_watch.moved()
        self._run.deliver(event)

    def _on_reply(self, rank: int, content: dict[str, Any], buffers: list[memoryview]) -> None:
        assert self._run is not None
        self.regroup |= content["regroup"]
        self._sequences[rank] = content["sequences"]
        self._run.assigned[rank] = content["assigned"]
        if not content["has_values"]:
            self._run.without_values.append(rank)
        if content["status"] == "ok":
            self._take_values(self._run, rank, content, buffers)
            for name in content["missing"]:
                self._run.missing.setdefault(name, []).append(rank)
            self._run.rank_done(rank)
        else:
            self._fail(
                Failure(
                    rank,
                    content["ename"],
                    content["evalue"],
                    tuple(content["traceback"]),
                    content["where"],
                    secondary=self._stopping.concerns(rank),
                    lost_peer=content["lost_peer"],
                )
            )
        self._finish_if_over()

    def _take_values(
        self, run: Run, rank: int, content: dict[str, Any], buffers: list[memoryview]
    ) -> None:
        if not buffers:
            return
        try:
            run.received[rank] = Received(content, buffers)
        except OSError as error:  # it is not there, or this process is out of descriptors
            said = f"the rank's values cannot be mapped here: {error}"
            run.rank_failed(Failure(rank, "AccelnbError", said))
        self._send("release_request", {}, [rank])

    def _on_exit(self, exit: Exit) -> None:
        worker = self.workers[exit.rank]
        if exit.pid != (worker.pid or exit.pid):
            return
        self.regroup = True
        for name, rest in exit.rest.items():
            if text := rest.after(worker.received.get(name, 0)):
                self._take_output(worker, name, text)
        for text in self._bars.left_by(exit.rank):
            if self._run is not None:
                self._run.log.write(exit.rank, "stderr", text + "\n")
        with self.changed:  # before the run may be over: the next one replaces the rank
            worker.exit = exit
            self.changed.notify_all()
        if self._run is not None and exit.rank in self._run.pending:
            was_stopped = self._stopping.concerns(exit.rank)
            self._run.replaced.append(exit.rank)
            if self.ending:
                self._fail(Failure(exit.rank, DIED, "was shut down"))
            else:
                self._fail(failure_of(exit, worker.last_output, was_stopped))
            self._finish_if_over()

    def _fail(self, failure: Failure) -> None:
        assert self._run is not None
        self._run.rank_failed(failure)
        self._stopping.note_failure()

    def _finish_if_over(self) -> None:
        run = self._run
        if run is None or run.pending:
            return
        if run.failures:
            # Ranks that made a different number of collectives would answer one another
            # wrongly from now on.
            self.regroup |= _are_out_of_step(self._sequences.values())
        self._run = None
        if run.stopped_by is not None:
            self._stopped |= set(run.ranks)
        self._stopping = Stopping()  # now: the next run is here before `_begin` is called
        run.finish()  # last: whoever waits for it may begin the next one at once

    def _interrupt(self, run: Run, reason: str) -> None:
        if run is not self._run or self._stopping.under_way:
            return
        run.stopped_by = reason
        self._stopping.begin(run.pending)
        self._send("interrupt_request", {}, sorted(run.pending))

    def _check_deadlines(self) -> None:
        run = self._run
        if run is None:
            return
        now = time.monotonic()
        if now >= self._usage_at:
            self._tell_usage(run, now)
        if self._stopping.under_way:
            if self._stopping.is_overdue(now):
                for rank in run.pending:
                    self._launched.kill(rank)
        elif reason := self._stopping.reason(run.deadline, now):
            self._interrupt(run, reason)
        elif now >= self._stall_watch.next_look:
            self._look_for_stall(run, now)

    def _look_for_stall(self, run: Run, now: float) -> None:
        workers = [self.workers[rank] for rank in run.ranks]
        stalled = self._stall_watch.look(
            now, workers, ask=lambda: self._send("where_request", {}, run.ranks)
        )
        if stalled is not None:
            report, places = stalled
            run.deliver(Stalled(report, {place.rank: place.wait for place in places}))

    def _tell_usage(self, run: Run, now: float) -> None:
        self._usage_at = now + _USAGE_EVERY
        pids = {rank: self.workers[rank].pid for rank in sorted(run.pending)}
        read = self._launched.held([pid for pid in pids.values() if pid])
        for rank, pid in pids.items():
            if pid in read:
                run.deliver(Usage(rank, *read[pid]))

    def _wait_ms(self) -> int | None:
        run = self._run
        if run is None:
            return None
        due = [self._stopping.next_look(run.deadline), self._usage_at]
        if not self._stopping.under_way:
            due.append(self._stall_watch.next_look)
        until = min(due) - time.monotonic()
        return max(0, int(until * 1000) + 1) if until < float("inf") else None


def _are_out_of_step(counts: Collection[Mapping[str, int]]) -> bool:
    """Return whether ranks have made different numbers of collectives in a group of both."""
    seen: dict[str, int] = {}
    return any(seen.setdefault(name, n) != n for count in counts for name, n in count.items())
