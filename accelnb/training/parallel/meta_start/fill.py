"""A model divided without its values, and filled with them after that: none has it whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.meta_start.drawing import initialize_weights
from accelnb.training.parallel.meta_start.from_rank_0 import (
    FromRank0,
    fill_from_rank_0,
    take_from_rank_0,
)
from accelnb.training.parallel.meta_start.without_values import (
    refuse_to_run_without_values,
    without_values,
)
from accelnb.training.parallel.plan import Plan


def divides(mesh: Mesh, plan: Plan) -> bool:
    """Return whether models will be divided over processes."""
    return plan.strategy in ("fsdp", "hsdp") or mesh.has("tp")


@contextmanager
def holding_back(model: nn.Module, mesh: Mesh, plan: Plan) -> Iterator[FromRank0]:
    """Take aside what rank 0 is to send once the model is divided: a collective if it will be.

    If it cannot be divided, it is put back.
    """
    held_back = FromRank0()
    if divides(mesh, plan):
        everything = plan.fsdp is not None and plan.fsdp.cpu_ram_efficient_loading
        held_back = take_from_rank_0(model, everything=bool(everything))
    try:
        yield held_back
    except BaseException:
        held_back.put_back()
        raise


def fill(model: nn.Module, held_back: FromRank0, mesh: Mesh, plan: Plan) -> nn.Module:
    """Give each process its part of what rank 0 held back; see that all else has values."""
    if held_back.places:
        fill_from_rank_0(model, held_back, mesh.device)
    param_init_fn = None if plan.fsdp is None else plan.fsdp.param_init_fn
    if divides(mesh, plan) and param_init_fn is not None and without_values(model):
        initialize_weights(model, param_init_fn)
    refuse_to_run_without_values(model)
    return model
