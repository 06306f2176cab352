"""How the ranks of a configuration share the work, for whoever shows them."""

from __future__ import annotations

from accelnb.options.config import LaunchConfig
from accelnb.options.mesh import Dimensions, usual_mesh
from accelnb.options.mesh_words import mesh_in_words, places_in_words


def mesh_of(config: LaunchConfig) -> Dimensions:
    """Return how the ranks of a resolved configuration are arranged."""
    return config.mesh or usual_mesh(config.strategy, config.world_size, config.nodes)


def sharing_in_words(config: LaunchConfig) -> str:
    """Return how ranks share a model; empty if each has a copy of its own, as is usual.

    Examples
    --------
    >>> from accelnb.notebook.views.sharing import sharing_in_words
    >>> from accelnb.options.config import LaunchConfig
    >>> sharing_in_words(LaunchConfig(procs=4, mesh=(("dp_shard", 2), ("tp", 2))))
    'data 2 x tensor 2; each rank holds 1/4'
    """
    if not _is_divided(config):
        return ""
    return mesh_in_words(mesh_of(config), is_sharded=config.strategy != "none")


def place_of_each(config: LaunchConfig) -> list[str]:
    """Return where each rank is in the mesh; nothing if each has a copy of the model."""
    return places_in_words(mesh_of(config)) if _is_divided(config) else []


def _is_divided(config: LaunchConfig) -> bool:
    if config.procs is None:  # not resolved: what a log alone tells of a run
        return False
    return any(name != "dp_replicate" and size > 1 for name, size in mesh_of(config))
