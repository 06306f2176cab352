"""Tensors that are divided over processes, known without importing what divides them.

torch imports DTensors and FSDP slowly: where they are not imported, there are none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def dtensors_in_use() -> bool:
    """Return whether there can be DTensors."""
    return "torch.distributed.tensor" in sys.modules


def is_dtensor(tensor: Any) -> TypeGuard[DTensor]:
    """Return whether a tensor is divided over processes."""
    return dtensors_in_use() and isinstance(tensor, sys.modules["torch.distributed.tensor"].DTensor)


def has_dtensors(tensors: Iterable[Any]) -> bool:
    """Return whether any of them is a DTensor; for many, less work than `is_dtensor` of each."""
    if not dtensors_in_use():
        return False
    divided = sys.modules["torch.distributed.tensor"].DTensor
    return any(issubclass(kind, divided) for kind in set(map(type, tensors)))


def of_part(part: torch.Tensor, spec: Any) -> Any:
    """Return the DTensor of which this process has a part, divided as a specification says."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part,
        spec.mesh,
        spec.placements,
        run_check=False,
        shape=spec.shape,
        stride=spec.stride,
    )


def reshard(model: nn.Module) -> None:
    """Have FSDP divide again what it has gathered of a model since its last forward pass."""
    if (fsdp := sys.modules.get("torch.distributed.fsdp")) is None:
        return
    part: Any
    for part in model.modules():
        if isinstance(part, fsdp.FSDPModule):
            part.reshard()
