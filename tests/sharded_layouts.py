"""A small model divided over ranks in the ways that a cell can divide it, and its training."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from accelnb import Accelerator
from accelnb.training.configuration import DataLoaderConfiguration
from accelnb.training.gradients import GradientState
from accelnb.training.state import AcceleratorState


class Block(nn.Module):
    """Sizes that two and four ranks do not divide evenly."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.first = nn.Linear(6, 10)
        self.second = nn.Linear(10, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(torch.tanh(self.first(self.norm(x))))


class Net(nn.Module):
    """Tied weights, a frozen one, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(6, 11)
        self.head.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.full((3,), 0.5), requires_grad=False)
        self.register_buffer("shift", torch.arange(11.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embedding(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x) * self.scale.sum() + self.shift


def divided(layout: str) -> nn.Module:
    """Return the model in a layout: all ranks call it."""
    torch.manual_seed(0)
    model, size = Net(), dist.get_world_size() if dist.is_initialized() else 1
    if layout in ("single", "ddp"):
        return model
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    names = {"hsdp": ("dp_replicate", "dp_shard"), "fsdp_tp": ("dp_shard", "tp")}.get(layout)
    sizes = (size // 2, 2) if names else (size,)
    mesh = init_device_mesh("cpu", sizes, mesh_dim_names=names or (layout,))
    if layout in ("tp", "fsdp_tp"):
        styles = {"first": ColwiseParallel(), "second": RowwiseParallel()}
        for block in model.blocks:
            parallelize_module(block, mesh["tp"], styles)
    if layout != "tp":
        of_data = mesh["dp_shard"] if layout == "fsdp_tp" else mesh
        for block in model.blocks:
            fully_shard(block, mesh=of_data)
        fully_shard(model, mesh=of_data)
    return model


def prepared(layout: str, model: nn.Module | None = None, **options: Any) -> Any:
    """Return an Accelerator with the model and an optimizer that has two groups of parameters."""
    os.environ["ACCELNB_STRATEGY"] = "ddp" if layout == "ddp" else "none"
    AcceleratorState._reset_state()
    GradientState._reset_state()
    once = DataLoaderConfiguration(split_batches=True)  # schedulers step once for each batch
    accelerator = Accelerator(dataloader_config=once, **options)
    model = model or divided(layout)
    slow = [p for name, p in model.named_parameters() if "norm" in name]
    fast = [p for name, p in model.named_parameters() if "norm" not in name]
    groups = [{"params": fast}, {"params": slow, "lr": 0.01, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.05, eps=1e-4, foreach=False)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    return accelerator, *accelerator.prepare(model, optimizer, scheduler)


def train(layout: str, training: Any, first: int, last: int) -> list[float]:
    """Train on the batches `first` to `last`; return the mean losses of all ranks."""
    accelerator, model, optimizer, scheduler = training
    tp = {"tp": accelerator.num_processes, "fsdp_tp": 2}.get(layout, 1)
    shares, share = accelerator.num_processes // tp, accelerator.process_index // tp
    draw = torch.Generator().manual_seed(1)
    losses = []
    for number in range(last):
        tokens = torch.randint(0, 11, (8, 5), generator=draw)
        if number < first:
            continue
        with accelerator.accumulate(model):
            mine = tokens.chunk(shares)[share]
            loss = F.cross_entropy(model(mine[:, :-1]).flatten(0, 1), mine[:, 1:].flatten())
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        losses.append(accelerator.reduce(loss.detach(), "mean").item())
    return losses
