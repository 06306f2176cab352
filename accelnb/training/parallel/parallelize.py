"""A model made one that trains on a mesh: each step in its place, and the strategies there are."""

from __future__ import annotations

import torch.distributed as dist
from torch import nn

from accelnb.devices import records
from accelnb.errors import AccelnbError
from accelnb.training.parallel.activation_checkpointing import apply_activation_checkpointing
from accelnb.training.parallel.compilation import apply_compilation
from accelnb.training.parallel.context_parallel.apply import apply_context_parallel
from accelnb.training.parallel.ddp import DataParallel
from accelnb.training.parallel.fsdp import Sharded, check_sharding
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.meta_start.fill import fill, holding_back
from accelnb.training.parallel.mixed_precision import apply_precision
from accelnb.training.parallel.placement import apply_placement
from accelnb.training.parallel.plan import Plan
from accelnb.training.parallel.quantized import check_quantized
from accelnb.training.parallel.repair import cut_short_is_refused
from accelnb.training.parallel.strategy import Strategy
from accelnb.training.parallel.tensor_parallel.layers import apply_tensor_parallel, planned_layers
from accelnb.training.parallel.xla import XlaProcess, XlaProcesses

# How several processes train one model, by the names that a launch gives to it.
STRATEGIES: dict[str, type[Strategy]] = {
    "ddp": DataParallel,
    "fsdp": Sharded,
    "hsdp": Sharded,
    "none": Strategy,
}
_ON_XLA: dict[str, type[Strategy]] = {"ddp": XlaProcesses, "none": XlaProcess}


def parallelize(model: nn.Module, mesh: Mesh, plan: Plan) -> nn.Module:
    """Return the model that trains on a mesh as planned. The given one is changed.

    Raises
    ------
    AccelnbError
        It cannot train so.

    Examples
    --------
    >>> import torch
    >>> from accelnb.training.parallel.mesh import Mesh
    >>> from accelnb.training.parallel.parallelize import parallelize
    >>> from accelnb.training.parallel.plan import Plan
    >>> from accelnb.training.precision import Precision
    >>> alone = Mesh.of_copies(torch.device("cpu"), size=1, rank=0)
    >>> parallelize(torch.nn.Linear(2, 1), alone, Plan("ddp", Precision("bf16", "cpu")))
    Linear(in_features=2, out_features=1, bias=True)
    """
    with cut_short_is_refused(model):
        check_quantized(model, mesh, plan)
        shards = strategy_for(mesh, plan).shards and not plan.evaluation_mode
        if shards:
            check_sharding(model, mesh, plan)
        model = apply_context_parallel(model, mesh, plan)
        layers = planned_layers(model, mesh, plan)
        with holding_back(model, mesh, plan) as held_back:
            model = apply_tensor_parallel(model, mesh, layers)
            model = apply_activation_checkpointing(model, mesh, plan)
            model = apply_precision(model, mesh, plan)
            if not shards:  # it goes to the device unit by unit
                model = apply_placement(model, mesh, plan)
            model = apply_strategy(model, mesh, plan)
            model = fill(model, held_back, mesh, plan)
        return apply_compilation(model, mesh, plan)


def apply_strategy(model: nn.Module, mesh: Mesh, plan: Plan) -> nn.Module:
    """Make a model train together with those of the other processes."""
    return model if plan.evaluation_mode else strategy_for(mesh, plan).apply(model, mesh, plan)


def strategy_for(mesh: Mesh, plan: Plan) -> type[Strategy]:
    """Return how the processes of a mesh train one model together."""
    known = _ON_XLA if records(mesh.device.type) else STRATEGIES
    chosen = known.get(plan.strategy)
    if chosen is None:
        choices = ", ".join(known)
        raise AccelnbError(f"{plan.strategy}: not on {mesh.device.type}; choose one of {choices}")
    alone = mesh.size == 1 and not (chosen.shards and dist.is_initialized())
    return known["none"] if alone else chosen
