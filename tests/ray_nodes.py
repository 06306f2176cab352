"""A Ray cluster for tests: several real nodes on this machine."""

from __future__ import annotations

import socket
from typing import Any

# Set before Ray is imported. Nodes of one small machine start slowly.
SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_TMPDIR": "/tmp",  # the paths of its sockets have to be short, whatever TMPDIR is
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_enable_metrics_collection": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
}


class RayCluster:
    """Three nodes with two processors each, on this machine.

    Attributes
    ----------
    url : str
        For notebooks that are not part of the cluster.
    """

    def __init__(self) -> None:
        import ray._private.utils
        from ray.cluster_utils import Cluster

        # As in an installation without Ray's dashboard: what serves it takes longer to start
        # than all the rest.
        ray._private.utils.get_dashboard_dependency_error = lambda: ImportError("not needed")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        head = {"num_cpus": 2, "ray_client_server_port": port, "include_dashboard": False}
        self._cluster: Any = Cluster()
        self._add_node(**head)
        for _ in range(2):
            self._add_node(num_cpus=2)
        self.address = self._cluster.address
        self.url = f"ray://127.0.0.1:{port}"

    def _add_node(self, **arguments: Any) -> None:
        """Start a node, if need be anew: Ray gives one 30 s, however busy the machine is."""
        for attempts_left in (2, 1, 0):
            try:
                self._cluster.add_node(**arguments)
                return
            except Exception:
                if not attempts_left:
                    self.close()
                    raise

    def raylets(self) -> dict[int, Any]:
        """Return the nodes but the head, by the pid of their raylet."""
        nodes = self._cluster.list_all_nodes()
        return {
            node.all_processes["raylet"][0].process.pid: node
            for node in nodes
            if node is not self._cluster.head_node
        }

    def lose(self, node: Any) -> None:
        """Kill all of a node, as a power cut does."""
        self._cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()
