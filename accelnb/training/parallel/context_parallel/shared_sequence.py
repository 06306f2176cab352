"""A block in which each process has a part of one sequence, and attention is of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from accelnb.training.parallel.context_parallel.attention_checks import (
    check_heads,
    check_is_of_sequence,
    check_mask,
    check_ring,
    on_all,
)
from accelnb.training.parallel.context_parallel.attention_dispatch import (
    attention_computed_by,
    check_not_in_block,
)
from accelnb.training.parallel.context_parallel.gathered_attention import (
    Attention,
    by_gathering,
    by_heads,
    by_ring,
)
from accelnb.training.parallel.context_parallel.sequence import (
    SequenceShare,
    in_parts,
    length_along,
)


@dataclass(frozen=True)
class WayOfAttention:
    """How attention is computed by the processes of a group, each with a part of the sequence.

    Attributes
    ----------
    compute
        Takes the attention and the group.
    check
        Takes the attention and the size of the group.
    """

    compute: Callable[[Attention, Any], torch.Tensor]
    check: Callable[[Attention, int], None]


# The first two by the names that `TorchContextParallelConfig` has for them.
WAYS = {
    "allgather": WayOfAttention(by_gathering, check_mask),
    "alltoall": WayOfAttention(by_ring, check_ring),
    "heads": WayOfAttention(by_heads, check_heads),
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
    check_not_in_block()
    given, dims = list(buffers or ()), list(buffer_seq_dims or ())
    share = SequenceShare(group.size(), group.rank())
    with in_parts(given, dims, no_restore_buffers or (), share):
        length = length_along(given, dims)  # of a part

        chosen = WAYS[way]
        agreed = False

        def check(attention: Attention) -> None:
            check_is_of_sequence(attention, length)
            chosen.check(attention, group.size())

        def compute(attention: Attention) -> torch.Tensor:
            nonlocal agreed
            if agreed or attention.is_traced:
                check(attention)
            else:  # once a block, for it costs a message
                on_all(lambda: check(attention), group, attention.query.device)
                agreed = True
            return chosen.compute(attention, group)

        name = f"{way} {share} {length} {group.group_name}"
        with attention_computed_by(compute, device_type, name):
            yield
