"""How rank 0 sends each rank its part of the data."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from accelnb.training.communication import broadcast_object
from accelnb.training.pytree import is_tensor_information, recursively_apply


def announced(message: Any) -> Any:
    """Return what rank 0 passes, on every rank."""
    if not dist.is_initialized():
        return message
    return broadcast_object(message, from_process=0)


def sending(part: Any, rank: int, device: torch.device) -> list[Any]:
    """Begin to send the tensors of a part; return what to wait for, with what to keep alive."""
    begun: list[Any] = []

    def send(tensor: torch.Tensor) -> None:
        content = _bytes(tensor.detach().to(device).contiguous())
        if content.numel():
            begun.append((dist.isend(content, rank), content))

    recursively_apply(send, part)
    return begun


def received(structure: Any, device: torch.device) -> Any:
    """Return the part of which rank 0 announced the structure."""

    def receive(info: Any) -> torch.Tensor:
        tensor = torch.empty(info.shape, dtype=info.dtype, device=device)
        if tensor.numel():
            dist.recv(_bytes(tensor), src=0)
        return tensor

    return recursively_apply(receive, structure, test_type=is_tensor_information)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    # Not every backend knows every dtype.
    return tensor.reshape(-1).view(torch.uint8)
