"""The rank's link thread: it talks to the notebook while the main thread runs cells."""

from __future__ import annotations

import collections
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import zmq

from accelnb.engine.serialization.pack import Packed
from accelnb.engine.wire.messages import Link, Message
from accelnb.worker.interrupt import Interrupt
from accelnb.worker.output import PipeReader, PipeWriter
from accelnb.worker.progress.bars import Bars, Position
from accelnb.worker.streamed_values import StreamedValues, packed

# Output is read at most this often: a flood costs few, large messages.
_READ_EVERY = 0.01
_FLUSH_EVERY = 0.1
_STREAM_EVERY = 0.1


@dataclass
class _Outgoing:
    kind: str
    content: dict[str, Any]
    parent: str | None
    buffers: Sequence[bytes | memoryview]
    output_before: Sequence[int]  # up to which byte of each pipe goes first


class RankLink(threading.Thread):
    """Carries messages between this rank and the notebook until the process ends.

    Parameters
    ----------
    interrupt
        Makes an `Interrupt` of the request that the main thread runs.
    where
        Called from this thread: says where the main thread is.
    """

    def __init__(
        self,
        dial: Callable[[], Link],
        readers: Sequence[PipeReader],
        writers: Sequence[PipeWriter],
        interrupt: Callable[[str], Interrupt],
        where: Callable[[], dict[str, Any]],
    ) -> None:
        super().__init__(name="accelnb-link", daemon=True)
        # None: tasks are to run.
        self.requests: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self.on_request: Callable[[], None] | None = None  # wakes a main thread that runs tasks
        self.busy_with: str | None = None  # the request that the main thread runs or is about to
        self.interrupt: Interrupt | None = None
        self.lent: Packed | None = None  # values in shared memory until the notebook has them
        self._dial = dial
        self._readers = readers
        self._writers = writers
        self._make_interrupt = interrupt
        self._where = where
        self.streamed = StreamedValues()
        self.bars = Bars(self, self._position)
        self._outgoing: collections.deque[_Outgoing] = collections.deque()
        self._sent = 0  # of these
        self._woken, self._wake = os.pipe()
        self._next_read = 0.0
        self._next_streamed = 0.0

    # ---- for the main thread ----

    def send(
        self,
        kind: str,
        content: dict[str, Any],
        parent: str | None = None,
        buffers: Sequence[bytes | memoryview] = (),
    ) -> None:
        """Send a message after all output that was written before it."""
        written = [reader.written for reader in self._readers]
        self._outgoing.append(_Outgoing(kind, content, parent, buffers, written))
        os.write(self._wake, b"x")

    def _position(self) -> Position:
        messages = self._sent + len(self._outgoing)
        return Position(messages, [reader.written for reader in self._readers])

    # ---- the thread ----

    def run(self) -> None:
        try:
            self._carry()
        except BaseException:
            # The notebook could neither hear nor stop this rank any more; it learns of its end.
            traceback.print_exc()
            os._exit(1)

    def _carry(self) -> None:
        self._link = self._dial()
        while True:
            poller = zmq.Poller()
            poller.register(self._link.socket, zmq.POLLIN)
            poller.register(self._woken, zmq.POLLIN)
            now = time.monotonic()
            blocked = not self._link.writable()
            if blocked:
                poller.register(self._link.socket, zmq.POLLIN | zmq.POLLOUT)
            elif now >= self._next_read:
                for reader in self._readers:
                    poller.register(reader.fd, zmq.POLLIN)
            ready = dict(poller.poll(self._wait_ms(now, blocked)))
            if self._woken in ready:
                os.read(self._woken, 4096)
            while (message := self._link.receive()) is not None:
                self._on_message(message)
            self._step_interrupt()
            if self.busy_with:
                for writer in self._writers:
                    writer.flush_if_idle()
            self._send_what_can_be_sent()

    def _wait_ms(self, now: float, blocked: bool) -> int | None:
        due = []
        if self.busy_with:
            due.append(now + _FLUSH_EVERY)
        if self.interrupt is not None:
            due.append(self.interrupt.next_step)
        if not blocked and now < self._next_read:
            due.append(self._next_read)
        if not blocked and self.bars:
            due.append(self.bars.next_due)
        return max(0, int((min(due) - now) * 1000) + 1) if due else None

    def _on_message(self, message: Message) -> None:
        if message.kind == "release_request":
            if self.lent is not None:
                self.lent.close()
                self.lent = None
        elif message.kind == "where_request":
            at_once = [0] * len(self._readers)
            self._outgoing.append(_Outgoing("where", self._where(), message.id, (), at_once))
        elif message.kind == "interrupt_request":
            if self.busy_with and self.interrupt is None:
                self.interrupt = self._make_interrupt(self.busy_with)
        else:
            if message.kind in ("execute_request", "call_request"):
                self.busy_with, self.interrupt = message.id, None
            self.requests.put(message)
            if wake := self.on_request:
                wake()

    def _step_interrupt(self) -> None:
        interrupt = self.interrupt
        now = time.monotonic()
        if interrupt is None or now < interrupt.next_step:
            return
        if self.busy_with == interrupt.request:
            interrupt.step(now)
        else:
            self.interrupt = None

    def _send_what_can_be_sent(self) -> None:
        while self._link.writable():
            # Before a look at the messages: what follows one of them is not to overtake it.
            written = [reader.written for reader in self._readers]
            if self.bars.due(time.monotonic(), self._sent):
                self._send_bars()
            elif self._outgoing:
                self._send_next(self._outgoing[0])
            elif self.streamed and time.monotonic() >= self._next_streamed:
                self._send_streamed()
            elif time.monotonic() >= self._next_read and self._send_output(written):
                self._next_read = time.monotonic() + _READ_EVERY
            else:
                return

    def _send_next(self, message: _Outgoing) -> None:
        if self._send_output(message.output_before):
            return
        if message.kind == "execute_reply" and self.bars.ending:
            self._send_bars()
            return
        if message.kind == "execute_reply" and self.streamed:
            self._send_streamed()
            return
        self._outgoing.popleft()
        self._sent += 1
        self._link.send(
            message.kind, message.content, parent=message.parent, buffers=message.buffers
        )

    def _send_bars(self) -> None:
        after = self.bars.after
        if after is not None and self._send_output(after.written):
            return
        if bars := self.bars.take(time.monotonic()):
            self._link.send("progress", {"bars": bars})

    def _send_streamed(self) -> None:
        values = [packed(self.streamed.take())]
        self._link.send("streamed", {"dropped": self.streamed.dropped}, buffers=values)
        if not self.streamed:
            self._next_streamed = time.monotonic() + _STREAM_EVERY

    def _send_output(self, written: Sequence[int]) -> int:
        """Send what is in the pipes, at most one message of each; return how many bytes."""
        total = 0
        for reader, upto in zip(self._readers, written, strict=True):
            text, count = reader.read(upto)
            total += count
            if text:
                content = {"name": reader.name, "text": text, "upto": reader.total}
                self._link.send("stream", content)
        return total
