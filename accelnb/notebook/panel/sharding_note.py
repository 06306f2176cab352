"""What a strategy and a mesh do to the memory of each rank, for the panel."""

from __future__ import annotations

from accelnb.cli.memory_estimate import ModelSize, estimate
from accelnb.devices.memory_size import in_words
from accelnb.notebook.views.sharing import mesh_of
from accelnb.options.config import LaunchConfig
from accelnb.options.mesh import Dimensions, usual_mesh
from accelnb.options.mesh_words import mesh_in_words

_EXAMPLE = ModelSize("a billion parameters", parameters=10**9, largest_layer=10**9 // 32)


def meaning_of_mesh(config: LaunchConfig) -> str:
    """Return what a mesh means; `config` has to be resolved.

    Examples
    --------
    >>> from accelnb.notebook.panel.sharding_note import meaning_of_mesh
    >>> from accelnb.options.config import LaunchConfig
    >>> meaning_of_mesh(LaunchConfig(procs=4, mesh=(("dp_shard", 2), ("tp", 2))))
    '4 ranks: data 2 x tensor 2; each rank holds 1/4'
    """
    ranks = f"{config.world_size} rank{'s' * (config.world_size > 1)}"
    means = mesh_in_words(mesh_of(config), is_sharded=config.strategy != "none")
    return f"{ranks}: {means}" if means else ranks


def memory_by_strategy(config: LaunchConfig) -> str:
    """Return what each rank needs by ddp, and as chosen; `config` has to be resolved.

    Examples
    --------
    >>> from accelnb.notebook.panel.sharding_note import memory_by_strategy
    >>> from accelnb.options.config import LaunchConfig
    >>> memory_by_strategy(LaunchConfig(procs=4))
    'Of a billion parameters with AdamW each of 4 ranks has: ddp 18.63 GiB, fsdp 3.96 GiB.'
    """
    ranks = config.world_size
    if ranks == 1:
        return ""
    named = ["fsdp", *(["hsdp"] if config.nodes > 1 else [])]
    needs = {"ddp": _need(config, "ddp", usual_mesh("ddp", ranks))}
    if config.mesh and config.strategy != "none":
        strategy = "fsdp" if config.strategy == "ddp" else config.strategy
        needs["this mesh"] = _need(config, strategy, config.mesh)
    elif not config.mesh:
        needs |= {s: _need(config, s, usual_mesh(s, ranks, config.nodes)) for s in named}
    if len(needs) == 1:
        return ""
    figures = ", ".join(f"{name} {in_words(size)}" for name, size in needs.items())
    return f"Of a billion parameters with AdamW each of {ranks} ranks has: {figures}."


def _need(config: LaunchConfig, strategy: str, mesh: Dimensions) -> int:
    return estimate(
        _EXAMPLE,
        procs=config.world_size,
        strategy=strategy,
        precision=config.precision,
        optimizer="adamw",
        mesh=dict(mesh),
    ).total
