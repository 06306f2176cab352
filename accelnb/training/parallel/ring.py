"""Attention in which keys and values go round: no process ever has those of the whole sequence.

Each process adds what its queries see in one part after the other, by a softmax that is corrected
as it goes. While it computes on a part, the next one is under way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from accelnb.training.parallel.exchange import receive, started_to_next


@dataclass(frozen=True)
class _Visible:
    """What the queries of a process see of each part.

    Attributes
    ----------
    place
        Of the process, and so of its part.
    mask
        The rows of these queries, with the columns of the whole sequence or one for all.
    """

    place: int
    is_causal: bool
    scale: float
    mask: torch.Tensor | None

    def sees(self, part: int) -> bool:
        return not self.is_causal or part <= self.place

    def scores(self, query: torch.Tensor, key: torch.Tensor, part: int) -> torch.Tensor:
        scores = query @ key.transpose(-2, -1) * self.scale
        if self.is_causal and part == self.place:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        if self.mask is None:
            return scores
        columns = _columns(self.mask, part, key.shape[-2])
        if columns.dtype == torch.bool:
            return scores.masked_fill(~columns, -torch.inf)
        return scores + columns


class RingAttention(Function):
    """Of queries and the parts of keys and values, of as many heads; compute is in float32.

    A mask's gradients are those of its rows.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        is_causal: bool,
        scale: float,
        group: Any,
    ) -> torch.Tensor:
        visible = _Visible(group.rank(), is_causal, scale, mask)
        asked = _precise(query)
        most = asked.new_full((*query.shape[:-1], 1), -torch.inf)
        weight = torch.zeros_like(most)
        seen = asked.new_zeros(*query.shape[:-1], value.shape[-1])
        own = torch.cat((key, value), -1)
        for part, both in _parts_in_turn(own, group):
            if not visible.sees(part):
                continue
            keys, values = _precise(both).split((key.shape[-1], value.shape[-1]), -1)
            scores = visible.scores(asked, keys, part)
            # A row that sees nothing yet has no greatest score.
            more = torch.maximum(most, scores.amax(-1, keepdim=True))
            base = more.masked_fill(more == -torch.inf, 0)
            weights, kept = (scores - base).exp(), (most - base).exp()
            weight = weight * kept + weights.sum(-1, keepdim=True)
            seen = seen * kept + weights @ values
            most = more
        sees_nothing = weight == 0
        result = seen / weight.masked_fill(sees_nothing, 1)
        log_weight = (most + weight.log()).masked_fill(sees_nothing, torch.inf)
        ctx.save_for_backward(query, key, value, mask, result, log_weight)
        ctx.said = is_causal, scale, group
        return result.to(query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        query, key, value, mask, result, log_weight = ctx.saved_tensors
        is_causal, scale, group = ctx.said
        visible = _Visible(group.rank(), is_causal, scale, mask)
        asked, grad = _precise(query), _precise(grads[0])
        of_row = (grad * result).sum(-1, keepdim=True)
        of_query, widths = torch.zeros_like(asked), (key.shape[-1], value.shape[-1])
        of_mask = torch.zeros_like(mask, dtype=asked.dtype) if ctx.needs_input_grad[3] else None
        of_both = _precise(torch.cat((key, value), -1)).zero_()
        for part, both in _parts_in_turn(torch.cat((key, value), -1), group):
            if visible.sees(part):
                keys, values = _precise(both).split(widths, -1)
                weights = (visible.scores(asked, keys, part) - log_weight).exp()
                of_scores = weights * (grad @ values.transpose(-2, -1) - of_row)
                of_query += of_scores @ keys * scale
                of_keys = of_scores.transpose(-2, -1) @ asked * scale
                of_both += torch.cat((of_keys, weights.transpose(-2, -1) @ grad), -1)
                if of_mask is not None:
                    columns = _columns(of_mask, part, key.shape[-2])
                    columns += of_scores.sum_to_size(columns.shape)
            # The gradients of a part go round with it, and after the last turn are at home.
            of_both = receive(started_to_next(of_both, group))
        of_key, of_value = of_both.to(key.dtype).split(widths, -1)
        grad_of_mask = None if of_mask is None else of_mask.to(mask.dtype)
        return of_query.to(query.dtype), of_key, of_value, grad_of_mask, None, None, None


def _parts_in_turn(own: torch.Tensor, group: Any) -> Any:
    """Yield each part with its place, the own one first; the next one comes in the meantime."""
    places, part = group.size(), own
    for turn in range(places):
        is_last = turn == places - 1
        coming = None if is_last else started_to_next(part, group)
        yield (group.rank() - turn) % places, part
        if coming is not None:
            part = receive(coming)


def _columns(mask: torch.Tensor, part: int, length: int) -> torch.Tensor:
    return mask if mask.shape[-1] == 1 else mask.narrow(-1, part * length, length)


def _precise(tensor: torch.Tensor) -> torch.Tensor:
    """Return it in float32, or float64 as it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
