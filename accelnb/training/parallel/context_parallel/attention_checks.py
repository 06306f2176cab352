"""What attention over parts of a sequence cannot be computed, found before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from accelnb.errors import AccelnbError
from accelnb.training.collective_errors import attempt
from accelnb.training.parallel.context_parallel.gathered_attention import Attention


def check_is_of_sequence(attention: Attention, length: int | None) -> None:
    """Refuse attention in which not both sides are this process's part of the sequence.

    Others, to an image or to a cache, say, may be whole on each process or be of parts: here that
    cannot be known.
    """
    if hasattr(attention.query, "placements"):
        raise AccelnbError(
            "context parallel: attention got DTensors: let the layers before it return local "
            "tensors (use_local_output=True)"
        )
    queries, keys = attention.query.shape[-2], attention.key.shape[-2]
    if queries == keys and length in (None, queries):
        return
    expected = "as many keys as queries" if length is None else f"{length} queries and keys"
    raise AccelnbError(
        f"context parallel: attention of {queries} queries to {keys} keys, where each rank's part "
        f"of the sequence has {expected}: only attention within the sequence is divided"
    )


def check_mask(attention: Attention, ranks: int) -> None:
    """Refuse a mask that is not of the whole sequence."""
    mask = attention.attn_mask
    if mask is None:
        return
    if attention.is_causal:
        raise AccelnbError("attention takes one of attn_mask and is_causal, not both")
    rows, columns = attention.query.shape[-2], attention.key.shape[-2] * ranks
    of_rows = mask.shape[-2] if mask.ndim > 1 else 0
    if mask.shape[-1] in (1, columns) and of_rows in (1, rows, rows * ranks):
        return
    raise AccelnbError(
        f"context parallel: attention got a mask of {tuple(mask.shape)}, made from a part of the "
        f"sequence: give the whole one, (..., {rows * ranks}, {columns}), or none (with causal "
        "attention padding at the end needs none: its labels are -100)"
    )


def check_heads(attention: Attention, ranks: int) -> None:
    """Refuse heads that cannot be divided, and a mask that is not of the whole sequence."""
    query, mask = attention.query, attention.attn_mask
    if query.ndim < 3 or query.shape[-3] % ranks:
        heads = f"{query.shape[-3]} heads are" if query.ndim > 2 else "attention without heads is"
        raise AccelnbError(
            f"sequence parallel: {heads} not divided by {ranks} ranks: use cp={ranks} instead of "
            f"sp={ranks}"
        )
    check_mask(attention, ranks)
    whole = query.shape[-2] * ranks
    if mask is not None and mask.shape[-2] not in (1, whole):
        raise AccelnbError(
            f"sequence parallel: the mask has the rows of one rank ({mask.shape[-2]}): give the "
            f"whole mask, of {whole} rows"
        )


def check_ring(attention: Attention, ranks: int) -> None:
    """Refuse dropout, and a mask that is not of the whole sequence."""
    check_mask(attention, ranks)
    if attention.dropout_p:
        raise AccelnbError(
            f"cp_comm_strategy=alltoall: attention with dropout ({attention.dropout_p}) does not "
            "go by it: choose allgather"
        )


def on_all(check: Callable[[], None], group: Any, device: torch.device) -> None:
    """Do a check on all processes of a group, and fail on all of them where it does on one.

    Padding may give one part a mask and another none: the others would wait for ever.
    """
    _, failure = attempt(check)
    failed = torch.tensor(group.rank() + 1 if failure else 0, device=device)
    dist.all_reduce(failed, dist.ReduceOp.MAX, group=group)
    if failure is not None:
        raise failure
    if number := int(failed):
        rank = dist.get_global_rank(group, number - 1)
        raise AccelnbError(
            f"context parallel: rank {rank} cannot compute attention of its part of the sequence, "
            "see there (a mask of padding that another part has not, most likely: give none)"
        )
