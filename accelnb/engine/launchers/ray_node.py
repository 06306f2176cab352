"""The ranks of one node of a cluster: a fork server there, owned by an actor.

An actor's process is the cluster's, which ends it when the notebook is gone; the fork server ends
with it, and the ranks with that. So a rank is here what it is on the notebook's own machine, with
a process, descriptors and signals of its own.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import select
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from accelnb.engine.launchers.local import ForkServer, modules_to_preload
from accelnb.engine.launchers.memory_meter import Held
from accelnb.engine.wire.lifecycle import Exit
from accelnb.errors import AccelnbError
from accelnb.options.config import LaunchConfig

_SIOCGIFADDR = 0x8915  # netdevice(7)


@dataclass
class News:
    """What happened on a node, and what its ranks' processes hold now."""

    events: list[tuple[int, int] | Exit] = field(default_factory=list)
    held: dict[int, Held] = field(default_factory=dict)
    states: dict[int, str | None] = field(default_factory=dict)


def versions() -> dict[str, str]:
    """Return the versions that have to be the same in the notebook and on every node."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python} | {name: importlib.metadata.version(name) for name in _PACKAGES}


_PACKAGES = ("torch", "accelnb")


class Node:
    """Starts and owns the ranks of one node; its methods are called by `RayRanks`.

    Parameters
    ----------
    config
        What the ranks are to be.
    """

    def __init__(self, config: LaunchConfig) -> None:
        import ray

        os.environ["OMP_NUM_THREADS"] = "1"  # each rank has one processor of the cluster's
        self._address = ray.util.get_node_ip_address()
        self._pids: dict[int, int] = {}
        self._asking = threading.Lock()  # an actor's calls come in threads of their own
        with _all_signals():
            self._server = ForkServer(modules_to_preload())
        self._ranks = self._server.open_group(config)

    def about(self) -> dict[str, Any]:
        """Return this node's address, the interface that has it, and the versions here."""
        interface = _interface_of(self._address)
        return {"address": self._address, "interface": interface, "versions": versions()}

    def why_out_of_reach(self, host: str, port: int) -> str | None:
        """Return why the notebook cannot be reached from here, None if it can."""
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError as error:
            return str(error)
        return None

    def open_store(self) -> tuple[str, int]:
        return self._ranks.open_store(self._address)

    def start(self, spec: dict[str, Any], method: str) -> None:
        with self._asking, contextlib.suppress(OSError):  # `news` says that the server ended
            self._ranks.start(spec, method)

    def kill(self, rank: int) -> None:
        with self._asking:
            self._ranks.kill(rank)

    def news(self, seconds: float) -> News:
        """Return what happened; wait up to `seconds` for it.

        Raises
        ------
        AccelnbError
            The fork server of this node has ended, and the ranks with it.
        """
        news = News()
        poll = select.poll()
        poll.register(self._ranks.fileno(), select.POLLIN)
        wait = int(seconds * 1000)
        while poll.poll(wait):
            news.events.append(self._next_event())
            wait = 0
        pids = list(self._pids.values())
        news.held = self._ranks.held(pids)
        news.states = {pid: self._ranks.state(pid) for pid in pids}
        return news

    def _next_event(self) -> tuple[int, int] | Exit:
        try:
            event = self._ranks.receive()
        except EOFError:
            raise AccelnbError(self._ranks.last_words()) from None
        if isinstance(event, Exit):
            self._pids.pop(event.rank, None)
        else:
            self._pids[event[0]] = event[1]
        return event


@contextlib.contextmanager
def _all_signals() -> Iterator[None]:
    """Block no signal meanwhile: a process inherits what its parent's thread blocks."""
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _interface_of(address: str) -> str | None:
    """Return the network interface that has an IPv4 address (netdevice(7)), if one has."""
    try:
        import fcntl
    except ImportError:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has no such address
                request = struct.pack("256s", name.encode()[:15])
                found = fcntl.ioctl(asking.fileno(), _SIOCGIFADDR, request)[20:24]
                if socket.inet_ntoa(found) == address:
                    return name
    return None
