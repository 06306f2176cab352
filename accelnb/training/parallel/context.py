"""Context and sequence parallel: one sequence over several processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from accelnb.errors import AccelnbError
from accelnb.training.parallel.attention import Attention, WayOfAttention, by_gathering, by_heads
from accelnb.training.parallel.attention_dispatch import attention_computed_by
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.plan import Plan
from accelnb.training.parallel.sequence import SequenceShare, in_parts, length_along

# By what `TorchContextParallelConfig` says.
_WAYS: dict[str | None, WayOfAttention] = {"allgather": by_gathering, "alltoall": by_gathering}


@contextmanager
def context_parallel(
    way: WayOfAttention,
    group: Any,
    device_type: str,
    buffers: Sequence[torch.Tensor] | None = None,
    buffer_seq_dims: Sequence[int] | None = None,
    no_restore_buffers: Iterable[torch.Tensor] | None = None,
) -> Iterator[None]:
    """Compute in the block with this process's part of the sequence, as if it were whole.

    Parameters
    ----------
    way
        How attention is computed: `attention.by_gathering` or `attention.by_heads`.
    group
        The process group whose processes have the parts, in its order.
    device_type
        Of what is computed: ``cpu``, ``cuda`` and so on.
    buffers, buffer_seq_dims, no_restore_buffers
        See `Accelerator.maybe_context_parallel`.

    Raises
    ------
    AccelnbError
        Something cannot be divided, and nothing has been changed; or attention of the block
        cannot be computed so.
    """
    given, dims = list(buffers or ()), list(buffer_seq_dims or ())
    share = SequenceShare(group.size(), group.rank())
    with in_parts(given, dims, no_restore_buffers or (), share):
        length = length_along(given, dims)  # of a part

        def compute(attention: Attention) -> torch.Tensor:
            _check_is_of_sequence(attention, length)
            return way(attention, group)

        with attention_computed_by(compute, device_type):
            yield


def _check_is_of_sequence(attention: Attention, length: int | None) -> None:
    """Refuse attention in which not both sides are this process's part of the sequence.

    Others, to an image or to a cache, say, may be whole on each process or be of parts: here that
    cannot be known.
    """
    queries, keys = attention.query.shape[-2], attention.key.shape[-2]
    if queries == keys and length in (None, queries):
        return
    expected = "as many keys as queries" if length is None else f"{length} queries and keys"
    raise AccelnbError(
        f"context parallel: attention of {queries} queries to {keys} keys, where each rank's part "
        f"of the sequence has {expected}: only attention within the sequence is divided"
    )


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
    if not mesh.has("cp", "sp"):
        return nullcontext()
    if mesh.has("cp") and mesh.has("sp"):
        raise AccelnbError("context parallel: a sequence is divided along cp or sp, not both")
    for model in models:
        _check_ddp_leaves(model, buffers or ())
    if mesh.has("sp"):
        _check_length(plan, buffers or (), buffer_seq_dims or ())
    name, way = ("sp", by_heads) if mesh.has("sp") else ("cp", _WAYS[plan.context.cp_comm_strategy])
    return context_parallel(
        way, mesh.group(name), mesh.device.type, buffers, buffer_seq_dims, no_restore_buffers
    )


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
