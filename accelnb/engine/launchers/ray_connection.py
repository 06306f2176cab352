"""This process's connection to a Ray cluster: made for the first ranks, ended with the last."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import socket
import sys
import threading
import urllib.parse
import warnings
from typing import Any

from accelnb.devices import DEVICES
from accelnb.devices.hardware import Hardware
from accelnb.errors import AccelnbError

# Ray's server forks one of its own for each client, while other threads of it are in gRPC: now and
# then that process ends at once. Another lives.
_HAS_DIED_AT_ITS_START = re.compile(r"Starting Ray client server failed|ZombieProcess")


class Connection:
    """A connection to one cluster. `close` is called once for each `connect`.

    Attributes
    ----------
    ray : module
        Ray, connected.
    cluster : str
        The option that named the cluster.
    """

    def __init__(self, cluster: str) -> None:
        if importlib.util.find_spec("ray") is None:
            raise AccelnbError(
                f"cluster={cluster}: Ray is not installed here: pip install 'accelnb[ray]'"
            )
        self._is_ours = not _is_connected()
        if self._is_ours and cluster != "ray":
            _refuse_unreachable(cluster)  # before the seconds that it takes to import Ray
        import ray

        self.ray: Any = ray
        self.cluster = cluster
        self.users = 0
        if self._is_ours:
            _init(ray, cluster)
        elif cluster != "ray":
            raise AccelnbError(
                f"cluster={cluster}: this process is connected to a Ray cluster already; use "
                "--cluster ray for that one, or call ray.shutdown() first"
            )
        self._job = self._current_job()
        self._has_ended = self._is_silent = False
        try:
            self.hardware = _hardware(self.nodes())
        except AccelnbError:
            self.end()
            raise
        _seen[cluster] = self.hardware

    def alive(self) -> bool:
        """Whether it is still there: a notebook may call ``ray.shutdown`` itself.

        Nothing may be asked of Ray otherwise, for Ray would make another connection for it.
        """
        if not self._has_ended:
            same = self.ray.is_initialized() and self._current_job() == self._job
            self._has_ended = not same
        return not self._has_ended

    @property
    def is_from_outside(self) -> bool:
        """Whether it goes through Ray's client server, as this machine is no node."""
        return self.ray.util.client.ray.is_connected()

    def _current_job(self) -> str:
        if self.is_from_outside:
            return ""  # what tells one from another is not known here without a message
        return self.ray.get_runtime_context().get_job_id()

    def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes that are there, as Ray describes them.

        Raises
        ------
        AccelnbError
            The cluster has gone.
        """
        gone = f"cluster={self.cluster}: the connection to it has ended"
        if not self.alive():
            raise AccelnbError(gone)
        try:
            return [node for node in self.ray.nodes() if node["Alive"]]
        except Exception:  # of many kinds, Ray's and gRPC's
            self._has_ended = self._is_silent = True
            raise AccelnbError(f"{gone}: the cluster does not answer") from None

    def notebook_address(self) -> str:
        """Return the address by which the cluster reaches this process.

        It is ``ACCELNB_HOST`` if that is set, else that of the interface towards the cluster.
        """
        if named := os.environ.get("ACCELNB_HOST"):
            return named
        if self.cluster == "ray":
            return self.ray.util.get_node_ip_address()
        url = urllib.parse.urlsplit(self.cluster)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as towards:
            towards.connect((url.hostname, url.port))  # nothing is sent: the system picks the way
            return towards.getsockname()[0]

    def end(self) -> None:
        if self._is_ours and (self._is_silent or self.alive()):
            with contextlib.suppress(Exception):  # the cluster has gone before
                self.ray.shutdown()


_seen: dict[str, Hardware] = {}  # what each cluster had when it was last reached
_connection: Connection | None = None
_lock = threading.Lock()


def connect(cluster: str) -> Connection:
    """Return the connection to `cluster` and hold it until `close`.

    Raises
    ------
    AccelnbError
        It cannot be reached, or this process is connected to another one.
    """
    with _lock:
        connection = _connected(cluster)
        connection.users += 1
        return connection


def close(connection: Connection) -> None:
    """Let a connection go; the last who does so ends it."""
    global _connection
    with _lock:
        connection.users -= 1
        if connection.users:
            return
        connection.end()
        if connection is _connection:
            _connection = None


def hardware_of_cluster(cluster: str) -> Hardware:
    """Return what the nodes of a cluster have, at most, of each kind of device."""
    with _lock:
        return _connected(cluster).hardware


def hardware_when_last_reached(cluster: str) -> Hardware | None:
    """Return what `hardware_of_cluster` said last, None if this process never asked."""
    return _seen.get(cluster)


def _connected(cluster: str) -> Connection:
    global _connection
    if _connection is not None and not _connection.alive():
        _connection = None
    if _connection is not None and _connection.cluster != cluster:
        if _connection.users:
            raise AccelnbError(
                f"cluster={cluster}: there are ranks on {_connection.cluster} still; end them "
                "with %accelnb shutdown"
            )
        _connection.end()
        _connection = None
    if _connection is None:
        _connection = Connection(cluster)
    return _connection


def _is_connected() -> bool:
    """Whether this process has a connection to Ray; does not import it."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def _init(ray: Any, cluster: str) -> None:
    address = "auto" if cluster == "ray" else cluster
    for is_last in (False, True):
        try:
            with warnings.catch_warnings():  # what they say is in the error
                warnings.simplefilter("ignore")
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            return
        except Exception as error:  # of many kinds; each says what it is
            with contextlib.suppress(Exception):  # what a half-made connection leaves
                ray.shutdown()
            if is_last or not _HAS_DIED_AT_ITS_START.search(str(error)):
                said = _why_not_connected(error, cluster)
                raise AccelnbError(f"cluster={cluster}: {said}") from None


def _why_not_connected(error: Exception, cluster: str) -> str:
    if isinstance(error, ConnectionError) and cluster == "ray":
        return "no Ray cluster runs on this machine; start one with: ray start --head"
    if type(error) is ConnectionError:
        return "what answers there is no Ray client server, whose port is 10001 by default"
    text = str(error)
    if "Traceback (most" in text:  # of the server; its last line says what it is
        text = text.strip().splitlines()[-1]
    return " ".join(text.split())[:300]


def _refuse_unreachable(cluster: str) -> None:
    """Say at once what Ray would say after half a minute."""
    url = urllib.parse.urlsplit(cluster)
    try:
        socket.create_connection((url.hostname or "", url.port or 0), timeout=5).close()
    except OSError as error:
        raise AccelnbError(
            f"cluster={cluster}: nothing answers there ({error}); give the host of the cluster's "
            "head node and the port of its Ray client server, 10001 by default"
        ) from None


def _hardware(nodes: list[dict[str, Any]]) -> Hardware:
    """Return the most that a node has of each kind of device.

    Examples
    --------
    >>> from accelnb.engine.launchers.ray_connection import _hardware
    >>> _hardware([{"Resources": {"CPU": 8.0}}, {"Resources": {"CPU": 4.0}}]).why_not("cuda")
    'not found on a node of the cluster; found 8 cpu: choose auto or cpu'
    """

    def most(resource: str) -> int:
        return max((int(node["Resources"].get(resource, 0)) for node in nodes), default=0)

    own = [row for row in DEVICES.values() if row.resource and not row.stands_for]
    return Hardware({row.name: most(row.resource) for row in own}, place="a node of the cluster")
