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

from accelnb.training.parallel.context_parallel.exchange import receive, started_to_next

# Scores are computed for so many queries at a time, to bound their memory.
ROWS_AT_ONCE = 512


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

    def scores(
        self, query: torch.Tensor, key: torch.Tensor, part: int, rows: slice
    ) -> torch.Tensor:
        """Return the scores of some rows of the queries with the keys of a part."""
        scores = query[..., rows, :] @ key.transpose(-2, -1) * self.scale
        if self.is_causal and part == self.place:
            places = torch.arange(key.shape[-2], device=scores.device)
            scores = scores.masked_fill(places[rows, None] < places, -torch.inf)
        if self.mask is None:
            return scores
        seen = _of_part(self.mask, part, key.shape[-2], rows)
        if seen.dtype == torch.bool:
            return scores.masked_fill(~seen, -torch.inf)
        return scores + seen


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
            for rows in _some_rows(query.shape[-2]):
                scores = visible.scores(asked, keys, part, rows)
                before = most[..., rows, :]
                more = torch.maximum(before, scores.amax(-1, keepdim=True))
                # A row that sees nothing yet has no greatest score.
                base = more.masked_fill(more == -torch.inf, 0)
                weights, kept = (scores - base).exp(), (before - base).exp()
                weight[..., rows, :] = weight[..., rows, :] * kept + weights.sum(-1, keepdim=True)
                seen[..., rows, :] = seen[..., rows, :] * kept + weights @ values
                most[..., rows, :] = more
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
            keys, values = _precise(both).split(widths, -1)
            for rows in _some_rows(query.shape[-2]) if visible.sees(part) else ():
                scores = visible.scores(asked, keys, part, rows)
                weights = (scores - log_weight[..., rows, :]).exp()
                of_weights = grad[..., rows, :] @ values.transpose(-2, -1)
                of_scores = weights * (of_weights - of_row[..., rows, :])
                of_query[..., rows, :] += of_scores @ keys * scale
                of_keys = of_scores.transpose(-2, -1) @ asked[..., rows, :] * scale
                of_values = weights.transpose(-2, -1) @ grad[..., rows, :]
                of_both += torch.cat((of_keys, of_values), -1)
                if of_mask is not None:
                    of_seen = _of_part(of_mask, part, key.shape[-2], rows)
                    of_seen += of_scores.sum_to_size(of_seen.shape)
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


def _some_rows(rows: int) -> list[slice]:
    return [slice(at, min(at + ROWS_AT_ONCE, rows)) for at in range(0, rows, ROWS_AT_ONCE)]


def _of_part(mask: torch.Tensor, part: int, length: int, rows: slice) -> torch.Tensor:
    """Return a view of what a mask says of some rows and the columns of a part."""
    columns = mask if mask.shape[-1] == 1 else mask.narrow(-1, part * length, length)
    return columns if columns.shape[-2] == 1 else columns[..., rows, :]


def _precise(tensor: torch.Tensor) -> torch.Tensor:
    """Return it in float32, or float64 as it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
