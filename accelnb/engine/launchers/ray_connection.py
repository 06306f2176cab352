"""This process's connection to a Ray cluster: made for the first ranks, ended with the last."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import urllib.parse
from typing import Any

from accelnb.errors import AccelnbError
from accelnb.hardware import Hardware


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
        try:
            import ray
        except ImportError:
            raise AccelnbError(
                f"cluster={cluster}: Ray is not installed here: pip install 'accelnb[ray]'"
            ) from None
        self.ray: Any = ray
        self.cluster = cluster
        self.users = 0
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            _init(ray, cluster)
        elif cluster != "ray":
            raise AccelnbError(
                f"cluster={cluster}: this process is connected to a Ray cluster already; use "
                "--cluster ray for that one, or call ray.shutdown() first"
            )
        self.hardware = Hardware(_devices(self.nodes()))

    def alive(self) -> bool:
        return self.ray.is_initialized()

    def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes that are there, as Ray describes them."""
        return [node for node in self.ray.nodes() if node["Alive"]]

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
        if self._is_ours and self.alive():
            self.ray.shutdown()


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


def _init(ray: Any, cluster: str) -> None:
    address = "auto" if cluster == "ray" else cluster
    if cluster != "ray":
        _refuse_unreachable(cluster)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of many kinds; each says what it is
        with contextlib.suppress(Exception):  # what a half-made connection leaves
            ray.shutdown()
        said = " ".join(str(error).split())
        if isinstance(error, ConnectionError) and cluster == "ray":
            said = "no Ray cluster runs on this machine; start one with: ray start --head"
        raise AccelnbError(f"cluster={cluster}: {said[:300]}") from None


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


def _devices(nodes: list[dict[str, Any]]) -> dict[str, int]:
    def most(resource: str) -> int:
        return max((int(node["Resources"].get(resource, 0)) for node in nodes), default=0)

    return {"cpu": most("CPU"), "cuda": most("GPU")}
