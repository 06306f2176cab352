"""Context and sequence parallel: one sequence over several processes.

What it takes is imported when it is needed: it is slow to import.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from accelnb.errors import AccelnbError
from accelnb.training.parallel.context_parallel.sequence import length_along
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.plan import Plan

# The dimensions along which processes share sequences: one of them.
_ALONG = ("cp", "sp")


def context_parallel_on(
    mesh: Mesh,
    plan: Plan,
    models: Sequence[Any],
    buffers: Sequence[torch.Tensor] | None,
    buffer_seq_dims: Sequence[int] | None,
    no_restore_buffers: Iterable[torch.Tensor] | None,
) -> AbstractContextManager[None]:
    """Return the context of `context_parallel` for a mesh; without `cp` and `sp` an empty one.

    Raises
    ------
    AccelnbError
        A buffer is one that DDP would write to, or is not as long as `plan` says.
    """
    if not mesh.has(*_ALONG):
        return nullcontext()
    if mesh.has("cp") and mesh.has("sp"):
        raise AccelnbError("context parallel: a sequence is divided along cp or sp, not both")
    for model in models:
        _check_ddp_leaves(model, buffers or ())
    if mesh.has("sp"):
        _check_length(plan, buffers or (), buffer_seq_dims or ())
    from accelnb.training.parallel.context_parallel.shared_sequence import context_parallel

    way = "heads" if mesh.has("sp") else str(plan.context.cp_comm_strategy)
    return context_parallel(
        way, mesh.group(*_ALONG), mesh.device.type, buffers, buffer_seq_dims, no_restore_buffers
    )


def whole_sequence(part: torch.Tensor, dim: int, mesh: Mesh) -> torch.Tensor:
    """Return the whole sequence of which each process along `cp` or `sp` gives a part."""
    if not mesh.has(*_ALONG):
        return part
    from accelnb.training.parallel.context_parallel.exchange import gathered_sequence

    return gathered_sequence(part, mesh.group(*_ALONG), dim)


def _check_ddp_leaves(model: Any, buffers: Sequence[torch.Tensor]) -> None:
    """Refuse buffers that DDP would make those of its first process in each forward pass."""
    if not isinstance(model, DistributedDataParallel) or not model.broadcast_buffers:
        return
    synced = {id(buffer) for buffer in model.modules_buffers}
    for number, buffer in enumerate(buffers):
        if id(buffer) in synced:
            raise AccelnbError(
                f"maybe_context_parallel: buffers[{number}] is a buffer of the model, which DDP "
                "overwrites with that of rank 0: give "
                "DistributedDataParallelKwargs(broadcast_buffers=False) to the Accelerator"
            )


def _check_length(plan: Plan, buffers: Sequence[torch.Tensor], dims: Sequence[int]) -> None:
    expected, handler = plan.sequence.sp_seq_length, plan.sequence
    if handler.sp_seq_length_is_variable or len(buffers) != len(dims):
        return
    length = length_along(buffers, dims)
    if length not in (None, expected):
        raise AccelnbError(
            f"maybe_context_parallel: a sequence of {length}, but sp_seq_length={expected} and "
            "sp_seq_length_is_variable=False"
        )


def apply_context_parallel(model: nn.Module, mesh: Mesh, plan: Plan) -> nn.Module:
    """Prepare a model for `context_parallel`, where the mesh has `cp` or `sp`.

    Raises
    ------
    AccelnbError
        It computes attention in a way that cannot be divided.
    """
    if not mesh.has(*_ALONG):
        return model
    for part in model.modules():
        chosen = getattr(getattr(part, "config", None), "_attn_implementation", None)
        if isinstance(chosen, str) and chosen != "sdpa":
            raise AccelnbError(
                f"context parallel: {type(part).__name__} computes attention by {chosen}, which "
                "cannot be divided: load it with attn_implementation='sdpa'"
            )
    from accelnb.training.parallel.context_parallel.attention_dispatch import intercept_attention
    from accelnb.training.parallel.context_parallel.model_inputs import check_inputs_of

    intercept_attention(mesh.device.type)
    check_inputs_of(model)
    return model
