"""Attention over a sequence of which each process has a part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from accelnb.training.parallel.context_parallel.exchange import (
    gathered_sequence,
    heads_of_whole_sequence,
    part_of_all_heads,
)
from accelnb.training.parallel.context_parallel.ring_attention import RingAttention


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

    @property
    def is_traced(self) -> bool:
        """Whether torch.compile traces it: nothing is computed yet."""
        return hasattr(self.query, "fake_mode")

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


def by_gathering(attention: Attention, group: Any) -> torch.Tensor:
    """Compute the rows of this process's queries with the keys and values of all processes."""
    rows, columns = attention.query.shape[-2], attention.key.shape[-2] * group.size()
    mask = _own_rows(attention, group)
    if mask is None and attention.is_causal:
        mask = _causal(rows, columns, group.rank() * rows, attention.query.device)
    return replace(
        attention,
        key=gathered_sequence(attention.key, group),
        value=gathered_sequence(attention.value, group),
        attn_mask=mask,
        is_causal=False,
    ).computed()


def by_heads(attention: Attention, group: Any) -> torch.Tensor:
    """Compute the whole sequence for this process's part of the heads (Ulysses)."""
    query, mask, ranks = attention.query, attention.attn_mask, group.size()
    heads = query.shape[-3]
    if mask is not None and mask.ndim > 2 and mask.shape[-3] == heads > 1:
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
    """Compute as `by_gathering`, with one part of the keys and values at a time."""
    query, key, value = attention.query, attention.key, attention.value
    if query.ndim > 2:
        times = query.shape[-3] // key.shape[-3], query.shape[-3] // value.shape[-3]
        key, value = key.repeat_interleave(times[0], -3), value.repeat_interleave(times[1], -3)
    scale = query.shape[-1] ** -0.5 if attention.scale is None else attention.scale
    mask = _own_rows(attention, group)
    computed = RingAttention.apply(query, key, value, mask, attention.is_causal, scale, group)
    return computed  # pyright: ignore[reportReturnType]


def _own_rows(attention: Attention, group: Any) -> torch.Tensor | None:
    """Return the rows of a mask that are of this process's queries."""
    mask, rows = attention.attn_mask, attention.query.shape[-2]
    if mask is None or mask.shape[-2] != rows * group.size():
        return mask
    return mask.narrow(-2, group.rank() * rows, rows)


def _with_heads_for(ranks: int, heads: int, shared: torch.Tensor) -> torch.Tensor:
    """Return keys or values with their heads repeated as often as it takes to divide them."""
    have = shared.shape[-3]
    times = next((n for n in range(1, heads // have) if not have * n % ranks), heads // have)
    return shared.repeat_interleave(times, -3) if times > 1 else shared


def _causal(rows: int, columns: int, first: int, device: torch.device) -> torch.Tensor:
    """Return which columns each of some rows sees; `first` is the place of the first row."""
    places = torch.arange(columns, device=device)
    return places[first : first + rows, None] >= places
