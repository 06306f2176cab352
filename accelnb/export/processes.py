"""How many processes an exported script is started with."""

from __future__ import annotations

from accelnb.options.config import LaunchConfig
from accelnb.options.mesh import places


def processes_on_each_node(config: LaunchConfig) -> int:
    """Return the number that a cell asks for, by itself or by its mesh; else that of CPU ranks.

    Examples
    --------
    >>> from accelnb.export.processes import processes_on_each_node
    >>> from accelnb.options.config import LaunchConfig
    >>> processes_on_each_node(LaunchConfig(mesh=(("dp_shard", 2), ("tp", 2))))
    4
    """
    return config.procs or (places(config.mesh) or 0) // config.nodes or 2
