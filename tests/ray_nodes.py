"""A Ray cluster for tests: several real nodes on this machine."""

from __future__ import annotations

import socket
from typing import Any

from harness import wait_until

# Set before Ray is imported. Nodes of one small machine start slowly.
SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_enable_metrics_collection": "0",
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
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            self._cluster.add_node(num_cpus=2)
        self.address = self._cluster.address
        self.url = f"ray://127.0.0.1:{port}"

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


def placement_groups_are_free(url: str) -> bool:
    """Return whether every placement group of the cluster was given back, within a while."""
    import ray
    from ray.util import placement_group_table

    context = ray.init(url, log_to_driver=False, allow_multiple=True)
    with context:
        return wait_until(
            lambda: all(p["state"] == "REMOVED" for p in placement_group_table().values()), 20
        )
