"""A model made one that trains on a mesh: each step in its place, and the strategies there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from accelnb.devices import records
from accelnb.training.parallel.activation_checkpointing import apply_activation_checkpointing
from accelnb.training.parallel.compilation import apply_compilation
from accelnb.training.parallel.ddp import DataParallel, apply_ddp
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.mixed_precision import apply_precision
from accelnb.training.parallel.placement import apply_placement, check_device_map
from accelnb.training.parallel.plan import Plan
from accelnb.training.parallel.strategy import Strategy
from accelnb.training.parallel.xla import XlaProcess, XlaProcesses, apply_equal_weights


def parallelize(model: nn.Module, mesh: Mesh, plan: Plan) -> nn.Module:
    """Return the model that trains on a mesh as planned. The given one is changed.

    Raises
    ------
    AccelnbError
        It cannot train so.
    """
    check_device_map(model, mesh)
    model = apply_activation_checkpointing(model, mesh, plan)
    model = apply_precision(model, mesh, plan)
    model = apply_placement(model, mesh, plan)
    model = apply_strategy(model, mesh, plan)
    return apply_compilation(model, mesh, plan)


def apply_strategy(model: nn.Module, mesh: Mesh, plan: Plan) -> nn.Module:
    """Make a model train together with those of the other processes."""
    return model if plan.evaluation_mode else _chosen(mesh, plan).apply(model, mesh, plan)


def strategy_on(mesh: Mesh, plan: Plan) -> Strategy:
    """Return how the processes of a mesh train one model together.

    Raises
    ------
    AccelnbError
        The devices of the processes are not connected.

    Examples
    --------
    >>> import torch
    >>> from accelnb.training.parallel.mesh import Mesh
    >>> from accelnb.training.parallel.parallelize import strategy_on
    >>> from accelnb.training.parallel.plan import Plan
    >>> from accelnb.training.precision import Precision
    >>> alone = Mesh.of_copies(torch.device("cpu"), size=1, rank=0)
    >>> type(strategy_on(alone, Plan("ddp", Precision("no", "cpu")))).__name__
    'Strategy'
    """
    return _chosen(mesh, plan).strategy.on(mesh, plan)


class _Way(NamedTuple):
    apply: Callable[[nn.Module, Mesh, Plan], nn.Module]
    strategy: type[Strategy]


def _nothing(model: nn.Module, mesh: Mesh, plan: Plan) -> nn.Module:
    return model


STRATEGIES = {
    "ddp": _Way(apply_ddp, DataParallel),
    "none": _Way(_nothing, Strategy),
}
_ON_XLA = {
    "ddp": _Way(apply_equal_weights, XlaProcesses),
    "none": _Way(_nothing, XlaProcess),
}


def _chosen(mesh: Mesh, plan: Plan) -> _Way:
    known = _ON_XLA if records(mesh.device.type) else STRATEGIES
    return known[plan.strategy if mesh.size > 1 else "none"]
