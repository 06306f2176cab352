"""Clipping of gradients that are plain tensors, DTensors of any meshes, or both.

torch's own functions take tensors of one kind and one mesh. Here each process measures what it
holds of the gradients, and what it found travels once over each process group that shards any.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from accelnb.errors import AccelnbError

# The process groups over which a parameter is divided, outermost first, by torch's names for them.
_Groups = tuple[str, ...]


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


def has_dtensors(tensors: Iterable[Any]) -> bool:
    """Return whether any of them is a DTensor."""
    module = sys.modules.get("torch.distributed.tensor")  # slow to import; not there: no DTensors
    return module is not None and any(isinstance(one, module.DTensor) for one in tensors)


def group_named(name: str) -> Any:
    """Return the process group of now that has this name."""
    from torch.distributed.distributed_c10d import _resolve_process_group

    return _resolve_process_group(name)  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def held_gradient(parameter: torch.Tensor) -> torch.Tensor | None:
    """Return what this process holds of a gradient, divided as its parameter is; None without one.

    A gradient that is a sum of which each process has a part, as those of normalizations in
    sequence parallelism, is added up first, and stays so.
    """
    gradient: Any = parameter.grad
    if gradient is None or not has_dtensors([parameter]):
        return gradient
    placements = _placements(parameter)
    if gradient.placements != placements:
        gradient = parameter.grad = gradient.redistribute(placements=placements)
    return gradient.to_local()


def groups_around(parameters: Iterable[torch.Tensor]) -> list[str]:
    """Return the names of the process groups of all meshes that parameters lie on."""
    meshes = dict.fromkeys(_mesh(one) for one in parameters if has_dtensors([one]))
    return list(
        dict.fromkeys(
            mesh.get_group(dimension).group_name
            for mesh in meshes
            for dimension in range(mesh.ndim)
            if mesh.size(dimension) > 1
        )
    )


def _held_parts(parameters: Sequence[torch.Tensor], name: str) -> dict[_Groups, list[torch.Tensor]]:
    """Return what this process holds of the gradients, by the groups that they are divided over.

    All processes have the same keys in the same order, whichever gradients are missing on some.
    """
    held: dict[_Groups, list[torch.Tensor]] = {}
    trained = [p for p in parameters if p.requires_grad or p.grad is not None]
    sharded = [p for p in trained if has_dtensors([p])]
    if sharded and all(p.grad is None for p in sharded):
        raise AccelnbError(
            f"{name}: no sharded parameter has a gradient. Before the last batch of an "
            "accumulation they are not there yet: call it only if accelerator.sync_gradients, "
            "after backward()"
        )
    for parameter in trained:
        parts = held.setdefault(_groups_of(parameter), [])
        part = held_gradient(parameter)
        if part is not None and part.numel():
            parts.append(part)
    return held


def _mesh(dtensor: Any) -> Any:
    return dtensor.device_mesh


def _placements(dtensor: Any) -> Any:
    return dtensor.placements


def _groups_of(parameter: torch.Tensor) -> _Groups:
    if not has_dtensors([parameter]):
        return ()
    mesh = _mesh(parameter)
    return tuple(
        mesh.get_group(dimension).group_name
        for dimension, placement in enumerate(_placements(parameter))
        if not placement.is_replicate() and mesh.size(dimension) > 1
    )


@torch.no_grad()
def _norm_of(
    held: dict[_Groups, list[torch.Tensor]], norm_type: float, device: torch.device
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
    group = group_named(group_name)
    rows = [torch.empty_like(row) for _ in range(dist.get_world_size(group))]
    dist.all_gather(rows, row, group=group)
    return torch.stack(rows)


@torch.no_grad()
def _on_each_device(
    held: dict[_Groups, list[torch.Tensor]],
    change: Callable[[list[torch.Tensor], torch.device], None],
) -> None:
    by_device: dict[torch.device, list[torch.Tensor]] = {}
    for part in (part for parts in held.values() for part in parts):
        by_device.setdefault(part.device, []).append(part)
    for device, parts in by_device.items():
        change(parts, device)
