"""Ranks on the nodes of a Ray cluster.

The ranks of one node share a bundle of a placement group, and an actor in it that owns them:
`accelnb.engine.launchers.ray_node.Node`. Bundles are spread strictly, so that ``--nodes 2`` is two
machines, and a rank's local number, its devices and its fork server are those of its machine.
"""

from __future__ import annotations

import collections
import os
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelnb.engine.launchers.local import fork_server, where_it_runs
from accelnb.engine.launchers.memory_meter import Held
from accelnb.engine.launchers.ray_capacity import bundle, no_room, refuse_if_too_small
from accelnb.engine.launchers.ray_connection import Connection, close, connect
from accelnb.engine.launchers.ray_node import News, Node, versions
from accelnb.engine.wire.encryption import Curve
from accelnb.engine.wire.lifecycle import Exit
from accelnb.engine.wire.messages import Link
from accelnb.errors import AccelnbError
from accelnb.options.config import LaunchConfig

_ROOM = 20.0  # s to wait for processors that others use now
_AGAIN = 1.0
_ACTOR = 90.0  # s for an actor to start on a node
_CALL = 15.0
_CALLS_AT_ONCE = 8  # of which one is always the wait for news
_NEWS_EVERY = 1.0
_SILENT = 30.0  # a node that has not answered for so long is lost


class _ActorEnded(AccelnbError):
    """A node's actor ended, or did not begin."""


@dataclass
class _NodeActor:
    """The actor on one node, and the bundle of the placement group that it is in."""

    number: int
    actor: Any
    address: str
    interface: str | None
    lost: bool = False


def open_cluster(config: LaunchConfig) -> RayRanks:
    """Return a new, empty group of ranks on the cluster that `config` names.

    Raises
    ------
    AccelnbError
        The cluster cannot be reached or has no room, or a node has other versions.
    """
    connection = connect(config.cluster)
    try:
        return RayRanks(config, connection)
    except BaseException:
        close(connection)
        raise


class RayRanks:
    """The rank processes of one group, on one or several nodes."""

    def __init__(self, config: LaunchConfig, connection: Connection) -> None:
        assert config.procs is not None
        self._config = config
        self._procs = config.procs
        self._connection = connection
        self._ray = connection.ray
        self._curve, self._curve_of_ranks = Curve.pair()
        self._started_with = _environment_at_start()
        self._live: dict[int, int] = {}  # the ranks that run or are being started, and their pids
        self._news: dict[int, News] = {}  # the newest of each node
        self._events: collections.deque[tuple[int, int] | Exit] = collections.deque()
        self._readable, self._written = socket.socketpair()
        self._closed = False
        self._group = self._ask_for_room()
        self._nodes: list[_NodeActor] = []
        try:
            self._nodes = self._start_nodes(range(config.nodes))
        except BaseException:
            self._give_back()
            raise

    @property
    def folder(self) -> Path:
        return fork_server().folder / "logs"

    def fileno(self) -> int:
        return self._readable.fileno()

    def receive(self) -> tuple[int, int] | Exit:
        self._readable.recv(1)
        return self._events.popleft()

    def listen(self, key: bytes) -> Link:
        host = self._connection.notebook_address()
        link = Link.listen(f"tcp://{host}:*", key, self._curve)
        port = int(link.address.rpartition(":")[2])
        try:
            reasons = self._get([s.actor.why_out_of_reach.remote(host, port) for s in self._nodes])
            for node, reason in zip(self._nodes, reasons, strict=True):
                if reason is not None:
                    raise AccelnbError(
                        f"node {node.address} cannot reach the notebook at {host}:{port} "
                        f"({reason}): open the way, or set ACCELNB_HOST to an address it can reach"
                    )
        except BaseException:
            link.close()
            raise
        return link

    def open_store(self) -> tuple[str, int]:
        return tuple(self._get(self._node(0).actor.open_store.remote()))

    def context(self) -> dict[str, Any]:
        return where_it_runs() | {"env": self._own_environment()}

    def describe(self, rank: int) -> dict[str, Any]:
        return {
            "local_rank": rank % self._procs,
            "local_world_size": self._procs,
            "interface": self._node(rank // self._procs).interface,
            "same_machine": False,
            "curve": self._curve_of_ranks.to_json(),
        }

    def start(self, spec: dict[str, Any], method: str) -> None:
        rank = spec["rank"]
        self._live[rank] = 0
        actor = self._node(rank // self._procs).actor
        try:
            actor.start.remote(spec, method)
        except Exception as error:
            raise AccelnbError(f"{self.last_words()}: {_cause(error)}") from None

    def kill(self, rank: int) -> None:
        node = self._nodes[rank // self._procs]
        if not node.lost:
            self._quietly(node.actor.kill.remote, rank)

    def held(self, pids: Sequence[int]) -> dict[int, Held]:
        known = {pid: h for news in list(self._news.values()) for pid, h in news.held.items()}
        return {pid: known[pid] for pid in pids if pid in known}

    def state(self, pid: int) -> str | None:
        states = [news.states.get(pid) for news in list(self._news.values())]
        return next((state for state in states if state is not None), None)

    def alive(self) -> bool:
        return not self._closed and self._connection.alive()

    def last_words(self) -> str:
        return f"the connection to the Ray cluster {self._config.cluster} has ended"

    def close(self) -> None:
        """End the actors and with them the ranks; give the placement group back."""
        if self._closed:
            return
        self._give_back()
        close(self._connection)
        self._readable.close()
        self._written.close()

    # ---- places on the cluster ----

    def _ask_for_room(self) -> Any:
        refuse_if_too_small(self._config, self._connection.nodes())
        from ray.util.placement_group import placement_group

        bundles = [bundle(self._config)] * self._config.nodes
        group = placement_group(bundles, strategy="STRICT_SPREAD")
        try:
            if not group.wait(_ROOM):
                raise AccelnbError(f"{no_room(self._config)}: others use it now; try again later")
        except BaseException:
            self._remove(group)
            raise
        return group

    def _start_nodes(self, numbers: Sequence[int]) -> list[_NodeActor]:
        """Start an actor in each of these bundles, and a thread that hears it."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        def options(number: int) -> dict[str, Any]:
            needed = bundle(self._config)
            return {
                "num_cpus": needed.pop("CPU"),
                "num_gpus": needed.pop("GPU", 0),
                "resources": needed,
                "max_concurrency": _CALLS_AT_ONCE,
                "scheduling_strategy": PlacementGroupSchedulingStrategy(self._group, number),
            }

        node = self._ray.remote(Node)
        actors = [node.options(**options(number)).remote(self._config) for number in numbers]
        abouts = self._get([actor.about.remote() for actor in actors], _ACTOR)
        nodes = []
        for number, actor, about in zip(numbers, actors, abouts, strict=True):
            _refuse_other_versions(about["address"], about["versions"])
            nodes.append(_NodeActor(number, actor, about["address"], about["interface"]))
        for node in nodes:
            name = f"accelnb-node-{node.number}"
            threading.Thread(target=self._hear, args=(node,), name=name, daemon=True).start()
        return nodes

    def _node(self, number: int) -> _NodeActor:
        """Return a node whose actor is alive: a new one if the old was lost."""
        node = self._nodes[number]
        if node.lost:
            refuse_if_too_small(self._config, self._connection.nodes())
            node = self._nodes[number] = self._start_anew(number)
        return node

    def _start_anew(self, number: int) -> _NodeActor:
        """Take the place of a lost node, which Ray may take for alive for a while yet."""
        until = time.monotonic() + _ROOM
        while True:
            try:
                return self._start_nodes([number])[0]
            except _ActorEnded:
                if time.monotonic() >= until:
                    raise
            time.sleep(_AGAIN)

    def _give_back(self) -> None:
        self._closed = True
        for node in self._nodes:
            self._quietly(self._ray.kill, node.actor)
        self._remove(self._group)

    def _remove(self, group: Any) -> None:
        from ray.util.placement_group import remove_placement_group

        if self._connection.is_from_outside:
            # It is a task there, for which a worker process may have to start: not waited for.
            remove = self._ray.remote(num_cpus=0)(remove_placement_group)
            self._quietly(remove.remote, group)
        else:
            self._quietly(remove_placement_group, group)

    def _quietly(self, end: Any, what: Any) -> None:
        if not self._connection.alive():
            return
        try:
            end(what)
        except Exception:  # the cluster is gone, and what was on it too
            return

    # ---- news ----

    def _hear(self, node: _NodeActor) -> None:
        """Pass on what happens on a node, until it is lost or the group is closed."""
        while not self._closed:
            if not self._connection.alive():
                self._lose(node, f"the connection to the cluster {self._config.cluster}")
                return
            try:
                news = self._ray.get(node.actor.news.remote(_NEWS_EVERY), timeout=_SILENT)
            except Exception as error:
                if not self._connection.alive():
                    continue
                if not self._closed:
                    self._lose(node, f"node {node.address}: {_cause(error)}")
                return
            self._news[node.number] = news
            for event in news.events:
                self._pass_on(event)

    def _pass_on(self, event: tuple[int, int] | Exit) -> None:
        if isinstance(event, Exit):
            self._live.pop(event.rank, None)
        else:
            self._live[event[0]] = event[1]
        self._events.append(event)
        try:
            self._written.send(b"x")
        except OSError:  # closed meanwhile
            return

    def _lose(self, node: _NodeActor, lost_with: str) -> None:
        node.lost = True
        self._quietly(self._ray.kill, node.actor)
        self._news.pop(node.number, None)
        for rank, pid in list(self._live.items()):
            if rank // self._procs == node.number:
                self._pass_on(Exit(rank, pid, -9, {}, lost_with=lost_with))

    def _get(self, references: Any, timeout: float = _CALL) -> Any:
        try:
            return self._ray.get(references, timeout=timeout)
        except self._ray.exceptions.GetTimeoutError:
            raise AccelnbError(
                f"the cluster did not start the ranks' actors within {timeout:g} s"
            ) from None
        except self._ray.exceptions.RayActorError as error:
            raise _ActorEnded(f"the cluster cannot start the ranks: {_cause(error)}") from None
        except Exception as error:
            cause = _cause(error)
            if "No module named" in cause:
                cause += ": pip install 'accelnb[ray]' on every node"
            raise AccelnbError(f"the cluster cannot start the ranks: {cause}") from None

    def _own_environment(self) -> dict[str, str | None]:
        """Return the variables that this process set or took out since it began."""
        now, then = os.environ, self._started_with
        changed = {n: now.get(n) for n in now.keys() | then.keys() if now.get(n) != then.get(n)}
        return {n: v for n, v in changed.items() if not n.startswith("RAY_")}


def _refuse_other_versions(host: str, there: dict[str, str]) -> None:
    for name, version in versions().items():
        if there[name] != version:
            raise AccelnbError(
                f"node {host} has {name} {there[name]}, the notebook {version}: "
                "install the same version on both"
            )


def _environment_at_start() -> dict[str, str]:
    """Return the environment that this process was started with (proc(5))."""
    try:
        entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:  # not Linux: as if nothing had been set since
        return dict(os.environ)
    pairs = (os.fsdecode(entry).partition("=") for entry in entries if entry)
    return {name: value for name, _, value in pairs}


def _cause(error: Exception) -> str:
    """Return in one line what Ray says was the cause of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line in lines:
        _, because, reason = line.partition("The actor is dead because ")
        if because:
            return reason.partition(". ")[0].rstrip(".")
    return lines[-1][:300] if lines else type(error).__name__
