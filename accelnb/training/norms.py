"""Clipping of gradients that are plain tensors, DTensors of any meshes, or both.

torch's own functions take tensors of one kind and one mesh. Here each process measures what it
holds of the gradients, and what it found travels once over each process group that shards any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training import sharded_gradients as sharded
from accelnb.training.dtensors import has_dtensors, is_dtensor
from accelnb.training.sharded_gradients import Groups


def clip_grad_norm(
    parameters: torch.Tensor | Iterable[torch.Tensor], max_norm: float, norm_type: float = 2.0
) -> torch.Tensor:
    """Scale gradients down to a norm; return what it was, on every process the same.

    Parameters
    ----------
    parameters
        Any mix of plain tensors and DTensors. Those without a gradient count as 0.
    norm_type
        A positive number, or infinity.

    Raises
    ------
    AccelnbError
        No sharded parameter has a gradient, or there is no such norm of sharded gradients.

    Examples
    --------
    >>> import torch
    >>> from accelnb.training.norms import clip_grad_norm
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_grad_norm([weight], max_norm=1.0)
    tensor(5.)
    >>> weight.grad
    tensor([0.6000, 0.8000])
    """
    given = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    if not has_dtensors(given):
        return nn.utils.clip_grad_norm_(given, max_norm, norm_type=norm_type)
    norm_type = float(norm_type)
    if not norm_type > 0:
        raise AccelnbError(
            f"norm_type={norm_type:g}: of sharded gradients there are norms of positive types, "
            "and of infinity"
        )
    held = _held_parts(given, "clip_grad_norm_")
    norm = _norm_of(held, norm_type, given[0].device)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    _on_each_device(held, lambda parts, here: torch._foreach_mul_(parts, factor.to(here)))
    return norm


def clip_grad_value(parameters: torch.Tensor | Iterable[torch.Tensor], clip_value: float) -> None:
    """Bound each element of gradients, which may be any mix of plain tensors and DTensors.

    Raises
    ------
    AccelnbError
        No sharded parameter has a gradient.
    """
    given = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    if not has_dtensors(given):
        nn.utils.clip_grad_value_(given, clip_value)
        return
    bound = float(clip_value)

    def clip(parts: list[torch.Tensor], _: torch.device) -> None:
        torch._foreach_clamp_min_(parts, -bound)
        torch._foreach_clamp_max_(parts, bound)

    _on_each_device(_held_parts(given, "clip_grad_value_"), clip)


def _held_parts(parameters: Sequence[torch.Tensor], name: str) -> dict[Groups, list[torch.Tensor]]:
    """Return what this process holds of the gradients, by the groups that they are divided over.

    All processes have the same keys in the same order, whichever gradients are missing on some.
    """
    held: dict[Groups, list[torch.Tensor]] = {}
    trained = [p for p in parameters if p.requires_grad or p.grad is not None]
    divided = [p for p in trained if is_dtensor(p)]
    if divided and all(p.grad is None for p in divided):
        raise AccelnbError(
            f"{name}: no sharded parameter has a gradient. Before the last batch of an "
            "accumulation they are not there yet: call it only if accelerator.sync_gradients, "
            "after backward()"
        )
    for parameter in trained:
        parts = held.setdefault(sharded.groups_dividing(parameter), [])
        part = sharded.held_gradient(parameter)
        if part is not None and part.numel():
            parts.append(part)
    return held


@torch.no_grad()
def _norm_of(
    held: dict[Groups, list[torch.Tensor]], norm_type: float, device: torch.device
) -> torch.Tensor:
    norms = {
        groups: nn.utils.get_total_norm(parts, norm_type).to(device, torch.float32)
        if parts
        else torch.zeros((), device=device)
        for groups, parts in held.items()
    }
    for group in dict.fromkeys(group for groups in held for group in groups):
        divided = [groups for groups in held if group in groups]
        mine = torch.stack([norms[groups] for groups in divided])
        of_all = _gathered(mine, group)
        norms |= zip(divided, torch.linalg.vector_norm(of_all, norm_type, dim=0), strict=True)
    return torch.linalg.vector_norm(torch.stack(list(norms.values())), norm_type)


def _gathered(row: torch.Tensor, group_name: str) -> torch.Tensor:
    group = sharded.group_named(group_name)
    rows = [torch.empty_like(row) for _ in range(dist.get_world_size(group))]
    dist.all_gather(rows, row, group=group)
    return torch.stack(rows)


@torch.no_grad()
def _on_each_device(
    held: dict[Groups, list[torch.Tensor]],
    change: Callable[[list[torch.Tensor], torch.device], None],
) -> None:
    by_device: dict[torch.device, list[torch.Tensor]] = {}
    for part in (part for parts in held.values() for part in parts):
        by_device.setdefault(part.device, []).append(part)
    for device, parts in by_device.items():
        change(parts, device)
