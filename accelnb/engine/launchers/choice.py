"""Which launcher makes a group's ranks, and what there is where it makes them."""

from __future__ import annotations

import contextlib

from accelnb.devices.hardware import Hardware, probe
from accelnb.engine.launchers.launcher import LaunchedRanks
from accelnb.engine.launchers.local import fork_server
from accelnb.engine.serialization.pack import Finish, finished, finished_in_message
from accelnb.options.config import LaunchConfig


def open_ranks(config: LaunchConfig) -> LaunchedRanks:
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


def hardware_known(config: LaunchConfig) -> Hardware | None:
    """Return what `hardware_for` would, at once: None for a cluster that was not reached yet."""
    if config.cluster == "local":
        return probe()
    from accelnb.engine.launchers.ray_connection import hardware_when_last_reached

    return hardware_when_last_reached(config.cluster)


def room_for(config: LaunchConfig) -> contextlib.AbstractContextManager[None]:
    """Refuse what a cluster can never hold, and stay connected to it while ranks change there.

    Raises
    ------
    AccelnbError
        The cluster cannot be reached, or is too small; nothing was started or ended.
    """
    if config.cluster == "local":
        return contextlib.nullcontext()
    from accelnb.engine.launchers.ray_capacity import room_on_cluster

    return room_on_cluster(config)


def finish_for(config: LaunchConfig) -> Finish:
    """Return how values become ready to travel to the ranks of `config`."""
    return finished if config.cluster == "local" else finished_in_message
