"""Attention over a sequence of which each process has a part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from accelnb.errors import AccelnbError
from accelnb.training.parallel.exchange import (
    gathered_sequence,
    heads_of_whole_sequence,
    part_of_all_heads,
)
from accelnb.training.parallel.ring import RingAttention


@dataclass(frozen=True)
class Attention:
    """A call of ``torch.nn.functional.scaled_dot_product_attention``."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    attn_mask: torch.Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False

    def computed(self) -> torch.Tensor:
        """Return what torch itself computes, of what is here."""
        return torch.ops.aten.scaled_dot_product_attention.default.decompose(
            self.query,
            self.key,
            self.value,
            self.attn_mask,
            self.dropout_p,
            self.is_causal,
            scale=self.scale,
            enable_gqa=self.enable_gqa,
        )


class WayOfAttention(Protocol):
    """How attention is computed by the processes of a group, each with a part of the sequence."""

    def __call__(self, attention: Attention, group: Any) -> torch.Tensor: ...


def by_gathering(attention: Attention, group: Any) -> torch.Tensor:
    """Compute the rows of this process's queries with the keys and values of all processes.

    Raises
    ------
    AccelnbError
        A mask is not of the whole sequence.
    """
    rows, columns = attention.query.shape[-2], attention.key.shape[-2] * group.size()
    mask = _own_rows(attention, group)
    if mask is None and attention.is_causal:
        mask = _causal(rows, columns, group.rank() * rows, attention.query.device)
    return replace(
        attention,
        key=gathered_sequence(attention.key, group),
        value=gathered_sequence(attention.value, group),
        attn_mask=mask,
        # With a mask of its own torch refuses it, as it does with one process.
        is_causal=attention.is_causal and attention.attn_mask is not None,
    ).computed()


def by_heads(attention: Attention, group: Any) -> torch.Tensor:
    """Compute the whole sequence for this process's part of the heads (Ulysses).

    Raises
    ------
    AccelnbError
        The heads cannot be divided, or a mask is not of the whole sequence.
    """
    query, ranks = attention.query, group.size()
    if query.ndim < 3 or query.shape[-3] % ranks:
        heads = f"{query.shape[-3]} heads are" if query.ndim > 2 else "attention without heads is"
        raise AccelnbError(
            f"sequence parallel: {heads} not divided by {ranks} ranks: use cp={ranks} instead of "
            f"sp={ranks}"
        )
    heads = query.shape[-3]
    mask = attention.attn_mask
    if mask is not None:
        whole = query.shape[-2] * ranks
        _check_whole(mask, query.shape[-2], whole, ranks)
        if mask.shape[-2] not in (1, whole):
            raise AccelnbError(
                f"sequence parallel: the mask has the rows of one rank ({mask.shape[-2]}): give "
                f"the whole mask, of {whole} rows"
            )
        if mask.ndim > 2 and mask.shape[-3] == heads > 1:
            mask = mask.chunk(ranks, -3)[group.rank()]
    key, value = (_with_heads_for(ranks, heads, x) for x in (attention.key, attention.value))
    computed = replace(
        attention,
        query=heads_of_whole_sequence(query, group),
        key=heads_of_whole_sequence(key, group),
        value=heads_of_whole_sequence(value, group),
        attn_mask=mask,
    ).computed()
    return part_of_all_heads(computed, group)


def by_ring(attention: Attention, group: Any) -> torch.Tensor:
    """Compute as `by_gathering`, with one part of the keys and values at a time.

    Raises
    ------
    AccelnbError
        A mask is not of the whole sequence, or there is dropout.
    """
    query, key, value = attention.query, attention.key, attention.value
    if attention.dropout_p:
        raise AccelnbError(
            f"cp_comm_strategy=alltoall: attention with dropout ({attention.dropout_p}) does not "
            "go by it: choose allgather"
        )
    if attention.is_causal and attention.attn_mask is not None:
        raise AccelnbError("attention takes one of attn_mask and is_causal, not both")
    if query.ndim > 2:
        key, value = (
            shared.repeat_interleave(query.shape[-3] // shared.shape[-3], -3)
            if shared.shape[-3] != query.shape[-3]
            else shared
            for shared in (key, value)
        )
    scale = query.shape[-1] ** -0.5 if attention.scale is None else attention.scale
    mask = _own_rows(attention, group)
    return RingAttention.apply(query, key, value, mask, attention.is_causal, scale, group)  # pyright: ignore[reportReturnType]


def _own_rows(attention: Attention, group: Any) -> torch.Tensor | None:
    """Return the rows of a mask that are of this process's queries."""
    rows, columns = attention.query.shape[-2], attention.key.shape[-2] * group.size()
    mask = attention.attn_mask
    if mask is None:
        return None
    _check_whole(mask, rows, columns, group.size())
    is_whole = mask.shape[-2] == rows * group.size()
    return mask.narrow(-2, group.rank() * rows, rows) if is_whole else mask


def _with_heads_for(ranks: int, heads: int, shared: torch.Tensor) -> torch.Tensor:
    """Return keys or values with their heads repeated as often as it takes to divide them."""
    have = shared.shape[-3]
    times = next((n for n in range(1, heads // have) if not have * n % ranks), heads // have)
    return shared.repeat_interleave(times, -3) if times > 1 else shared


def _causal(rows: int, columns: int, first: int, device: torch.device) -> torch.Tensor:
    """Return which columns each of some rows sees; `first` is the place of the first row."""
    places = torch.arange(columns, device=device)
    return places[first : first + rows, None] >= places


def _check_whole(mask: torch.Tensor, rows: int, columns: int, ranks: int) -> None:
    of_rows = mask.shape[-2] if mask.ndim > 1 else 1
    if mask.shape[-1] in (1, columns) and of_rows in (1, rows, rows * ranks) and mask.ndim > 1:
        return
    raise AccelnbError(
        f"context parallel: attention got a mask of {tuple(mask.shape)}, made from a part of the "
        f"sequence: give the whole one, (..., {rows * ranks}, {columns}), or none (with causal "
        "attention padding at the end needs none: its labels are -100)"
    )
