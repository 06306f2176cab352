"""Whether a Ray cluster has room for the ranks that a configuration asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from accelnb.devices import DEVICES
from accelnb.engine.launchers.ray_connection import close, connect
from accelnb.errors import AccelnbError
from accelnb.options.config import LaunchConfig


@contextlib.contextmanager
def room_on_cluster(config: LaunchConfig) -> Iterator[None]:
    """Refuse what the cluster can never hold; keep the connection to it meanwhile.

    Raises
    ------
    AccelnbError
        The cluster cannot be reached, or is too small.
    """
    connection = connect(config.cluster)
    try:
        refuse_if_too_small(config, connection.nodes())
        yield
    finally:
        close(connection)


def bundle(config: LaunchConfig) -> dict[str, float]:
    """Return what the ranks of one node need, in Ray's words.

    Examples
    --------
    >>> from accelnb.options.config import LaunchConfig
    >>> from accelnb.engine.launchers.ray_capacity import bundle
    >>> bundle(LaunchConfig(procs=4, device="cuda"))
    {'CPU': 4, 'GPU': 4}
    """
    assert config.procs is not None
    wanted = ("CPU", DEVICES[config.device].resource)
    return {resource: config.procs for resource in wanted if resource}


def refuse_if_too_small(config: LaunchConfig, nodes: list[dict[str, Any]]) -> None:
    """Raise AccelnbError if `nodes`, as Ray describes them, could not hold the ranks.

    Examples
    --------
    >>> from accelnb.options.config import LaunchConfig
    >>> from accelnb.engine.launchers.ray_capacity import refuse_if_too_small
    >>> refuse_if_too_small(LaunchConfig(procs=2, device="cpu"), [{"Resources": {"CPU": 2.0}}])
    """
    needed = bundle(config)
    sizes = [node["Resources"] for node in nodes]
    fit = [s for s in sizes if all(s.get(what, 0) >= n for what, n in needed.items())]
    if len(fit) < config.nodes:
        there = f"{len(fit)} such node{'s' * (len(fit) != 1)} of {len(sizes)}"
        raise AccelnbError(
            f"{no_room(config)}: there {'is' if len(fit) == 1 else 'are'} {there}; "
            "use fewer --nodes or --procs, or add nodes"
        )


def no_room(config: LaunchConfig) -> str:
    """Say that the cluster has no room for the ranks of `config`, and what they need."""
    each = " and ".join(f"{n} {what}{'s' * (n > 1)}" for what, n in bundle(config).items())
    asked = f"{config.nodes} nodes with {each} each" if config.nodes > 1 else f"a node with {each}"
    return f"the cluster has no room for {asked}"
