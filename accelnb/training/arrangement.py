"""How a launch arranges the processes of an Accelerator: the mesh, and how models train on it."""

from __future__ import annotations

import copy
import os
from typing import Any

from accelnb.errors import AccelnbError
from accelnb.options import environment
from accelnb.options.mesh import (
    MESH_DIMENSIONS,
    Dimensions,
    check_order,
    filled,
    read_mesh,
    usual_mesh,
    why_not_strategy,
    write_mesh,
)
from accelnb.training.fsdp_plugin import FullyShardedDataParallelPlugin, forget_what_was_set
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.parallelize import STRATEGIES
from accelnb.training.parallelism_config import ParallelismConfig
from accelnb.training.state import PartialState


def parallelism(given: ParallelismConfig | None) -> ParallelismConfig | None:
    """Return the sizes that were given, or else those of an Accelerate launch that has some."""
    if given is None and environment.flag("ACCELERATE_USE_PARALLELISM_CONFIG"):
        return ParallelismConfig()
    return given


def fsdp_plugin(
    given: FullyShardedDataParallelPlugin | None,
) -> FullyShardedDataParallelPlugin | None:
    """Return the plugin that was given, or else that of an Accelerate launch that asks for it."""
    if given is None:
        forget_what_was_set()
    if given is None and environment.flag("ACCELERATE_USE_FSDP"):
        return FullyShardedDataParallelPlugin()
    return given


def asked_strategy(fsdp: FullyShardedDataParallelPlugin | None) -> str:
    """Return how models shall train: as the launch says, by FSDP with its plugin, or by DDP."""
    chosen = os.environ.get(environment.STRATEGY, "ddp")
    if chosen not in STRATEGIES:
        choices = ", ".join(STRATEGIES)
        raise AccelnbError(f"{environment.STRATEGY}={chosen}: choose one of {choices}")
    if fsdp is not None and chosen == "none":
        raise AccelnbError(
            "fsdp_plugin has no effect with strategy none, which leaves models as they are: leave "
            "one of them out"
        )
    return "fsdp" if fsdp is not None and chosen == "ddp" else chosen


def arranged(process: PartialState, strategy: str, config: ParallelismConfig | None) -> Mesh:
    """Return the mesh of the processes there are.

    Raises
    ------
    AccelnbError
        It is not one of as many processes, or models cannot train so on it.
    """
    device, size, rank = process.device, process.num_processes, process.process_index
    if config is not None and config.device_mesh is not None:
        mesh = Mesh.of_torch(config.device_mesh, device, rank)
        if mesh.size != size:
            raise AccelnbError(f"device_mesh has {mesh.size} places for {size} ranks")
        return mesh
    if config is not None and config.dimensions:
        dimensions, source = config.dimensions, "parallelism_config"
    else:
        dimensions, source = _of_launch(), environment.MESH
    nodes = max(size // environment.number("LOCAL_WORLD_SIZE", default=size), 1)
    try:
        if strategy != "none":
            check_order(dimensions)
        dimensions = filled(dimensions, size)
    except AccelnbError as error:
        raise AccelnbError(f"{source}: the mesh {write_mesh(dimensions)} {error}") from None
    if reason := why_not_strategy(strategy, dimensions, nodes) if size > 1 else None:
        raise AccelnbError(f"strategy={strategy}: {reason}")
    dimensions = dimensions or usual_mesh(strategy, size, nodes)
    return Mesh(device, dict(dimensions), tuple(range(size)), rank)


def strategy_on(mesh: Mesh, strategy: str) -> str:
    """Return how models train on a mesh: one that divides them says so itself."""
    return "fsdp" if strategy == "ddp" and mesh.has("dp_shard", "tp") else strategy


def handlers(
    fsdp: FullyShardedDataParallelPlugin | None, config: ParallelismConfig | None
) -> dict[str, Any]:
    """Return what a `Plan` says more closely, where there is something to say."""
    found = {
        "fsdp": fsdp,
        "tensor": config and config.tp_handler,
        "context": config and config.cp_handler,
        "sequence": config and config.sp_handler,
    }
    return {name: handler for name, handler in found.items() if handler is not None}


def parallelism_on(mesh: Mesh, given: ParallelismConfig | None) -> ParallelismConfig | None:
    """Return the sizes that were given, filled in; else those of a mesh that is not only copies."""
    if given is not None:
        on_mesh = copy.copy(given)
        for name in MESH_DIMENSIONS:
            setattr(on_mesh, f"{name}_size", mesh.size_along(name))
        return on_mesh
    if not mesh.has(*(name for name in MESH_DIMENSIONS if name != "dp_replicate")):
        return None
    sizes: dict[str, Any] = {f"{name}_size": mesh.size_along(name) for name in MESH_DIMENSIONS}
    return ParallelismConfig(**sizes)


def _of_launch() -> Dimensions:
    text = os.environ.get(environment.MESH, "none")
    try:
        return read_mesh(text)
    except ValueError as error:
        raise AccelnbError(f"{environment.MESH}={text}: {error}") from None
