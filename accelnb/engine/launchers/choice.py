"""Which launcher makes a group's ranks, and what there is where it makes them."""

from __future__ import annotations

from accelnb.config import LaunchConfig
from accelnb.engine.launchers.contract import Ranks
from accelnb.engine.launchers.local import fork_server
from accelnb.engine.tensors import Finish, finished, finished_in_message
from accelnb.hardware import Hardware, probe


def open_ranks(config: LaunchConfig) -> Ranks:
    """Return a new, empty group of ranks, on this machine or on a cluster.

    Raises
    ------
    AccelnbError
        Nobody can start ranks there; one line says why.
    """
    if config.cluster == "local":
        return fork_server().open_group(config)
    from accelnb.engine.launchers.ray import open_cluster

    return open_cluster(config)


def hardware_for(config: LaunchConfig) -> Hardware:
    """Return what the machines have that `config` names.

    Raises
    ------
    AccelnbError
        The cluster cannot be reached.
    """
    if config.cluster == "local":
        return probe()
    from accelnb.engine.launchers.ray_connection import hardware_of_cluster

    return hardware_of_cluster(config.cluster)


def finish_for(config: LaunchConfig) -> Finish:
    """Return how values become ready to travel to the ranks of `config`."""
    return finished if config.cluster == "local" else finished_in_message
