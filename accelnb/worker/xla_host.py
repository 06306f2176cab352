"""The ranks of one group on a TPU host that torch_xla starts itself, by ``xmp.spawn``.

The fork server starts this host process and gives it the group's channel, on which the host
answers as the server would. Its main thread is in ``xmp.spawn``, which ends when the last rank has;
a second thread, the supervisor, talks to the notebook and to the ranks. A single rank needs no
such host: the server spawns it (`accelnb.worker.xla_rank.run_alone`).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import select
import signal
import socket
import sys
import threading
import time
import traceback
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from accelnb.engine.process.children import die_with_parent
from accelnb.engine.process.output_pipes import Output, Rest, open_outputs
from accelnb.engine.process.rank_environment import environment_for
from accelnb.engine.wire import lifecycle
from accelnb.engine.wire.channel import Channel
from accelnb.worker.xla_environment import for_several_processes

_ANSWER = 5.0  # s
_SPEAK = 20.0  # s for the others to get theirs, so that torch_xla says why one did not
_REAP = 2.0


@dataclass
class _Start:
    """What the notebook asked for: a rank, and what it is to inherit."""

    spec: dict[str, Any]
    fds: list[int]

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


@dataclass
class _Child:
    """A process that torch_xla made, and our copies of its outputs."""

    process: BaseProcess
    pid: int
    pidfd: int
    channel: Channel
    outputs: tuple[Output, ...]
    waiting: bool = True  # until it has its device, or failed to get one
    rank: int | None = None

    def kill(self) -> None:
        """Kill it and what it started; it leads a session of its own."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def exit_code(self) -> int:
        """Return how it ended; torch_xla's own threads may be reaping it just now."""
        until = time.monotonic() + _REAP
        while self.process.exitcode is None and time.monotonic() < until:
            time.sleep(0.005)
        return 1 if self.process.exitcode is None else self.process.exitcode

    def close(self) -> None:
        os.close(self.pidfd)
        self.channel.close()
        for output in self.outputs:
            output.close()


class Supervisor(threading.Thread):
    """Talks to the notebook and to the processes of the round under way.

    A round is one call of ``xmp.spawn``. All ranks of the group begin in it together, once each
    process has its device, and a new round follows when all have ended.
    """

    def __init__(self, notebook: Channel, address: str) -> None:
        super().__init__(name="accelnb-xla-supervisor", daemon=True)
        self.rounds: queue.SimpleQueue[None] = queue.SimpleQueue()  # for the main thread
        self._notebook = notebook
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(address)
        self._listener.listen()
        self._woken, self._wake = os.pipe()
        self._over: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._asked: dict[int, _Start] = {}  # the ranks to start, until there are all
        self._round: dict[int, _Start] | None = None  # those under way that have not begun
        self._children: list[_Child] = []
        self._environment = dict(os.environ)  # as far as it is the notebook's
        self._deadline: float | None = None  # for torch_xla, when a process was lost
        self._reason = ""
        self._first_lost: int | None = None

    def round_over(self, reason: str) -> None:
        """Say, from the main thread, that ``xmp.spawn`` has returned, and why if it failed."""
        self._over.put(reason)
        os.write(self._wake, b"x")

    def run(self) -> None:
        try:
            while True:
                self._look()
        except (EOFError, ConnectionError, TimeoutError):  # the group was closed
            pass
        except BaseException:
            traceback.print_exc()
        finally:
            for child in self._children:
                child.kill()
            for process in multiprocessing.active_children():  # those that have not come here yet
                process.kill()
            os._exit(0)

    def _look(self) -> None:
        poll = select.poll()
        for source in (self._notebook.fileno(), self._listener.fileno(), self._woken):
            poll.register(source, select.POLLIN)
        for child in self._children:
            poll.register(child.pidfd, select.POLLIN)
            if child.waiting:
                poll.register(child.channel.fileno(), select.POLLIN)
        ready = {fd for fd, _ in poll.poll(self._wait_ms())}
        if self._notebook.fileno() in ready:
            self._on_request(*self._notebook.receive())
        if self._listener.fileno() in ready:
            self._welcome()
        for child in list(self._children):
            if child.pidfd in ready:
                self._on_exit(child)
            elif child.waiting and child.channel.fileno() in ready:
                self._on_word(child)
        if self._wait_ms() == 0:
            self._deadline = None
            self._kill_all()
        if self._woken in ready:
            os.read(self._woken, 1)
            self._end_round(self._over.get())

    def _wait_ms(self) -> int | None:
        if self._deadline is None:
            return None
        return max(0, int((self._deadline - time.monotonic()) * 1000))

    def _on_request(self, message: dict[str, Any], fds: list[int]) -> None:
        if message["op"] == "start":
            self._asked[message["rank"]] = _Start(message["spec"], fds)
            self._begin_round()
            return
        for child in self._children:
            if child.rank == message["rank"]:
                child.kill()

    def _begin_round(self) -> None:
        """Have the main thread call ``xmp.spawn`` if all ranks were asked for and none is left."""
        if self._round is not None or not self._asked:
            return
        spec = next(iter(self._asked.values())).spec
        if len(self._asked) < spec["local_world_size"]:
            return
        self._round, self._asked = self._asked, {}
        self._reason, self._first_lost = "", None
        self._follow(for_several_processes(environment_for(spec)))
        self.rounds.put(None)

    def _follow(self, environment: dict[str, str]) -> None:
        """Take over what changed of the notebook's environment; torch_xla's own has to stay."""
        before, self._environment = self._environment, environment
        for name in before.keys() - environment.keys():
            os.environ.pop(name, None)
        changed = {n: value for n, value in environment.items() if before.get(n) != value}
        os.environ.update(changed)

    def _welcome(self) -> None:
        """Give a new process its outputs: what it says from now on is its rank's."""
        channel = Channel(self._listener.accept()[0])
        channel.settimeout(_ANSWER)
        ours = {process.pid: process for process in multiprocessing.active_children()}
        with contextlib.suppress(EOFError, OSError):  # it has died: torch_xla will say so
            pid: int = channel.receive()[0]["pid"]
            if pid not in ours:
                return
            outputs, writes = open_outputs()
            self._children.append(_Child(ours[pid], pid, os.pidfd_open(pid), channel, outputs))
            readers = [fd for output in outputs for fd in (output.pipe, output.record)]
            try:
                channel.send({"outputs": [output.name for output in outputs]}, [*writes, *readers])
            finally:
                for fd in writes:
                    os.close(fd)

    def _on_word(self, child: _Child) -> None:
        child.waiting = False
        assert self._round is not None
        try:
            message, _ = child.channel.receive()
        except (EOFError, OSError):  # it has no device: torch_xla will say why
            self._lose(child)
            return
        rank, world_size = message["rank"], message["world_size"]
        if world_size != len(self._round) or rank in [c.rank for c in self._children]:
            self._reason = (
                f"torch_xla made rank {rank} of {world_size}, where {len(self._round)} ranks "
                "are to have a device each"
            )
            self._lose(child)
            return
        child.rank = rank
        if self._deadline is not None:  # another was lost
            child.channel.shutdown()
        elif len([c for c in self._children if c.rank is not None]) == len(self._round):
            self._begin_ranks()

    def _begin_ranks(self) -> None:
        assert self._round is not None
        for child in self._children:
            assert child.rank is not None
            start = self._round.pop(child.rank)
            self._tell(lifecycle.started(child.rank, child.pid))
            with contextlib.suppress(OSError):  # it died meanwhile: seen by its pidfd
                child.channel.send({"spec": start.spec}, start.fds)
            start.close()

    def _lose(self, lost: _Child) -> None:
        """Let the ready processes go: torch_xla then says what happened to the lost one."""
        lost.waiting = False
        unread = "".join(Rest.of(o).unread.decode(errors="replace") for o in lost.outputs)
        lines = unread.strip().splitlines()
        self._reason = self._reason or (lines[-1] if lines else "")
        self._deadline = self._deadline or time.monotonic() + _SPEAK
        for child in self._children:
            if not child.waiting:
                child.channel.shutdown()

    def _on_exit(self, child: _Child) -> None:
        code = child.exit_code()
        child.kill()  # what it started
        self._children.remove(child)
        if self._round:
            self._lose(child)
        elif child.rank is not None:
            self._tell_exit(child, child.rank, code)
        child.close()

    def _tell_exit(self, child: _Child, rank: int, code: int) -> None:
        lost_with = None
        if code == -signal.SIGTERM and self._first_lost is not None:
            lost_with = f"rank {self._first_lost}, for torch_xla ends all ranks together"
        elif self._first_lost is None:
            self._first_lost = rank
        self._tell(lifecycle.exited(rank, child.pid, code, child.outputs, lost_with))

    def _end_round(self, reason: str) -> None:
        for child in list(self._children):
            self._on_exit(child)
        for rank, start in (self._round or {}).items():
            start.close()
            said = reason or self._reason or "torch_xla ended without saying why"
            self._tell(lifecycle.failed(rank, said))
        self._round, self._deadline = None, None
        self._begin_round()

    def _kill_all(self) -> None:
        for child in self._children:
            child.kill()

    def _tell(self, news: dict[str, Any]) -> None:
        self._notebook.send(news)


def _spawn(address: str) -> str:
    """Run a round; return why it failed, if torch_xla knows."""
    try:
        from torch_xla.distributed import (  # pyright: ignore[reportMissingImports]
            xla_multiprocessing,
        )

        from accelnb.worker.xla_rank import SpawnTarget

        xla_multiprocessing.spawn(SpawnTarget(address))
    except BrokenExecutor:
        return ""  # a process died: the supervisor knows how
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[-1]}"
    return ""


def main(channel_fd: int) -> None:
    """Run the host on the inherited channel of its group, until that is closed.

    The second argument of the process is the folder for sockets, which goes with the fork server.
    """
    die_with_parent(os.getppid())
    notebook = Channel.from_fd(channel_fd)
    address = str(Path(sys.argv[2]) / f"xla-{os.getpid()}.sock")
    supervisor = Supervisor(notebook, address)
    supervisor.start()
    while True:
        supervisor.rounds.get()
        supervisor.round_over(_spawn(address))
