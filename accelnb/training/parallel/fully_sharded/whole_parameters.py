"""What the processes that share a model's data have whole: made equal, and gradients averaged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


def make_equal(tensors: Iterable[torch.Tensor], device_mesh: Any) -> None:
    """Give tensors the values that they have on the first process of a mesh.

    Of what is split over other dimensions each process has its own part; those on the meta device
    have no values.
    """
    with torch.no_grad():
        for tensor in tensors:
            local = _local(tensor)
            if local.device.type == "meta" or not local.numel():
                continue
            sent = local.contiguous()
            for group in reversed(_groups(device_mesh)):
                dist.broadcast(sent, group=group, group_src=0)
            if sent is not local:
                local.copy_(sent)


class AveragedGradients:
    """Averages gradients over the processes of a mesh as soon as a backward pass has them.

    Attributes
    ----------
    enabled : bool
        If not, they stay each process's own; those that are added up are averaged later.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], device_mesh: Any) -> None:
        self.enabled = True
        self._mesh = device_mesh
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._average)

    def _average(self, parameter: torch.Tensor) -> None:
        if not self.enabled or parameter.grad is None:
            return
        local = _local(parameter.grad)
        total = local.contiguous()
        for group in _groups(self._mesh):
            total /= group.size()
            dist.all_reduce(total, group=group)
        if total is not local:
            local.copy_(total)


def _groups(device_mesh: Any) -> list[Any]:
    return [group for group in device_mesh.get_all_groups() if group.size() > 1]


def _local(tensor: torch.Tensor) -> torch.Tensor:
    to_local = getattr(tensor, "to_local", None)  # of a DTensor
    return tensor.detach() if to_local is None else to_local().detach()
