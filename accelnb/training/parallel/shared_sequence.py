"""A block in which each process has a part of one sequence, and attention is of the whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from accelnb.errors import AccelnbError
from accelnb.training.parallel.attention import (
    Attention,
    WayOfAttention,
    by_gathering,
    by_heads,
    by_ring,
)
from accelnb.training.parallel.attention_dispatch import attention_computed_by
from accelnb.training.parallel.sequence import SequenceShare, in_parts, length_along

# The first two by the names that `TorchContextParallelConfig` has for them.
WAYS: dict[str, WayOfAttention] = {
    "allgather": by_gathering,
    "alltoall": by_ring,
    "heads": by_heads,
}


@contextmanager
def context_parallel(
    way: str,
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
        How attention is computed: a name of `WAYS`.
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
            return WAYS[way](attention, group)

        name = f"{way} {share} {length} {group.group_name}"
        with attention_computed_by(compute, device_type, name):
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
