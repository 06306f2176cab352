"""The fork server: a small process that starts ranks, owns them and takes them along.

It imports what ranks need, then waits. It computes nothing and opens nothing but its own
sockets, because a process that ran OpenMP or holds a store cannot be forked safely. A group's
ranks live as long as its channel stays open; the server lives as long as its control channel.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from accelnb.engine.process.children import die_with_parent, parent_fd, start_python
from accelnb.engine.process.output_pipes import Output, open_outputs
from accelnb.engine.process.rank_environment import environment_for
from accelnb.engine.wire import lifecycle
from accelnb.engine.wire.channel import Channel
from accelnb.worker.preload import device_in_use, no_device_at_import, preload, remove

_NOT_FORKED = (
    "accelnb: ranks start as fresh processes, in seconds: {by} began to use a device in the fork "
    "server ({used}); restart the kernel and import it in the cell instead\n"
)
_HOST_ENDS = 0.5  # s


class _Start(NamedTuple):
    """A rank to start: what the notebook asked for and sent, and the ends of its outputs."""

    message: Mapping[str, Any]
    fds: Sequence[int]
    outputs: tuple[Output, ...]
    writes: tuple[int, ...]


@dataclass
class _Rank:
    """A rank process this server started, and our copies of its outputs."""

    rank: int
    pid: int
    outputs: tuple[Output, ...]


@dataclass
class _Group:
    channel: Channel
    ranks: dict[int, _Rank] = field(default_factory=dict)  # by pid


class Server:
    def __init__(self, control: Channel, sockets: str) -> None:
        self._control = control
        self._sockets = sockets  # the folder for them
        self._groups: dict[int, _Group] = {}  # by the channel's descriptor
        self._selector = selectors.DefaultSelector()
        self._popens: dict[int, subprocess.Popen[bytes]] = {}
        self._hosts: list[subprocess.Popen[bytes]] = []  # each starts the ranks of a group itself
        self.spoilt_by: str | None = None  # what was imported and began to use a device

    def serve(self) -> None:
        """Handle requests until the notebook's process is gone, then end every rank."""
        woken, wake = socket.socketpair()
        for end in (woken, wake):
            end.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(woken, selectors.EVENT_READ, None)
        self._selector.register(self._control, selectors.EVENT_READ, self._control)
        self._inherited = (woken, wake)
        if (owner := parent_fd()) is not None:
            self._selector.register(owner, selectors.EVENT_READ, owner)
        while True:
            for key, _ in self._selector.select():
                try:
                    if key.fileobj == owner:
                        return
                    if key.data is None:
                        woken.recv(4096)
                        self._reap()
                    elif key.data is self._control:
                        message, (fd,) = self._control.receive()
                        if message["host"]:
                            self._start_host(message["host"], fd)
                        else:
                            self._open_group(Channel.from_fd(fd))
                    else:
                        self._handle(key.data)
                except (EOFError, ConnectionError, TimeoutError):
                    if key.data is self._control:
                        return
                    self._close_group(cast(_Group, key.data))

    def end(self) -> None:
        for group in list(self._groups.values()):
            self._close_group(group)
        for host in self._hosts:  # their groups are closed too: the notebook's end is gone
            with contextlib.suppress(subprocess.TimeoutExpired):
                host.wait(_HOST_ENDS)
            host.kill()
            host.wait()

    def _start_host(self, module: str, channel: int) -> None:
        """Give a group's channel to a process that does for it what we do for others."""
        try:
            self._hosts.append(start_python(module, channel, self._sockets, folder=self._sockets))
        except OSError as error:  # no more processes for us: the group's channel closes
            print(error, file=sys.stderr, flush=True)
        finally:
            os.close(channel)

    def _open_group(self, channel: Channel) -> None:
        # A notebook that stops reading must not stop us from reaping the others.
        channel.settimeout(5)
        group = _Group(channel)
        self._groups[channel.fileno()] = group
        self._selector.register(channel, selectors.EVENT_READ, group)

    def _close_group(self, group: _Group) -> None:
        self._selector.unregister(group.channel)
        del self._groups[group.channel.fileno()]
        group.channel.close()
        for pid in list(group.ranks):
            _kill_session(pid)
            os.waitpid(pid, 0)
            self._forget(group, pid)

    def _handle(self, group: _Group) -> None:
        message, fds = group.channel.receive()
        if message["op"] == "start":
            try:
                self._start(group, message, fds)
            except OSError as error:  # no more processes or descriptors for us
                group.channel.send(lifecycle.failed(message["rank"], error.strerror))
        elif message["op"] == "kill":
            for pid in [r.pid for r in group.ranks.values() if r.rank == message["rank"]]:
                _kill_session(pid)

    def _start(self, group: _Group, message: dict[str, Any], fds: list[int]) -> None:
        with contextlib.ExitStack() as inherited:  # our copies of what is the rank's
            for fd in fds:
                inherited.callback(os.close, fd)
            outputs, writes = open_outputs()
            for fd in writes:
                inherited.callback(os.close, fd)
            try:
                pid = self._fork_or_spawn(_Start(message, fds, outputs, writes))
            except OSError:
                for output in outputs:
                    output.close()
                raise
        group.ranks[pid] = _Rank(message["rank"], pid, outputs)
        group.channel.send(lifecycle.started(message["rank"], pid))

    def _fork_or_spawn(self, start: _Start) -> int:
        if start.message["method"] != "fork":
            return self._spawn(start)
        if used := device_in_use():  # a fork would fail at its first use of that device
            said = _NOT_FORKED.format(by=self.spoilt_by or "what it imported", used=used)
            os.write(start.writes[1], said.encode())
            return self._spawn(start._replace(message={**start.message, "method": "spawn"}))
        gc.disable()
        try:
            pid = os.fork()
            if pid == 0:
                self._become_rank(start)
        finally:
            gc.enable()
        return pid

    def _become_rank(self, start: _Start) -> None:
        """In the child: drop everything that is the server's and run the rank; never return."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            server = os.getppid()
            die_with_parent(server)
            self._selector.close()
            self._control.close()
            for end in self._inherited:
                end.close()
            for group in self._groups.values():
                group.channel.close()
                for sibling in group.ranks.values():
                    for output in sibling.outputs:
                        output.close()
            for number, fd in zip((1, 2), start.writes, strict=True):
                os.dup2(fd, number)
                os.close(fd)
            gc.enable()
            from accelnb.worker.main import run_rank

            status = run_rank(start.message["spec"], start.outputs, start.fds)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _spawn(self, start: _Start) -> int:
        message, fds, outputs, writes = start
        channel, theirs = Channel.pair()
        output_fds = [fd for output in outputs for fd in (output.pipe, output.record)]
        is_xla = message["method"] == "xla"
        process = start_python(
            "accelnb.worker.xla_rank" if is_xla else "accelnb.worker.main",
            theirs.fileno(),
            folder=message["spec"]["folder"],
            inherited=(*output_fds, *fds),
            env=environment_for(message["spec"]),
            stdout=writes[0],
            stderr=writes[1],
        )
        self._popens[process.pid] = process
        theirs.close()
        with contextlib.suppress(OSError):  # it died at once: reaped like any other rank
            channel.send({"spec": message["spec"], "outputs": outputs, "fds": fds})
        channel.close()
        return process.pid

    def _reap(self) -> None:
        self._hosts = [host for host in self._hosts if host.poll() is None]
        for group in list(self._groups.values()):
            for pid in list(group.ranks):
                # Look first and reap last: until then the pid cannot belong to a stranger.
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    _kill_session(pid)
                    _, status = os.waitpid(pid, 0)
                    self._report_exit(group, pid, os.waitstatus_to_exitcode(status))

    def _report_exit(self, group: _Group, pid: int, code: int) -> None:
        rank = group.ranks[pid]
        told = lifecycle.exited(rank.rank, pid, code, rank.outputs)
        self._forget(group, pid)
        with contextlib.suppress(OSError):
            group.channel.send(told)

    def _forget(self, group: _Group, pid: int) -> None:
        for output in group.ranks.pop(pid).outputs:
            output.close()
        if popen := self._popens.pop(pid, None):
            popen.returncode = 0  # reaped here, not by subprocess


def _kill_session(pid: int) -> None:
    """Kill an unreaped rank and what it started; a rank leads its own session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)  # a child that has not made its session yet


def main(control_fd: int) -> None:
    """Run the server on an inherited socket; its first message says what to import."""
    control = Channel.from_fd(control_fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hello, _ = control.receive()
    folders = hello["folder"], hello["sockets"]
    server = Server(control, hello["sockets"])
    try:
        with no_device_at_import():
            server.spoilt_by = preload(hello["modules"], control, folders)
            if hello["modules"]:
                from accelnb.worker.main import prepare

                prepare(hello["folder"])
        gc.collect()
        gc.freeze()  # shared pages stay shared: the collector does not touch them in a rank
        control.send({"event": "ready", "threads": threading.active_count()})
        server.serve()
        # Not after an error, which the notebook still reads in our log.
        remove(folders)
    finally:
        server.end()
