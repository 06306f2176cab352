"""A small model divided over ranks in the ways that a cell can divide it, and its training."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import torch
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

    tp_plan: ClassVar = {"blocks.*.first": "colwise", "blocks.*.second": "rowwise"}

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


# How an Accelerator is launched for each layout: its strategy and mesh.
LAUNCHES = {
    "single": ("ddp", "none"),
    "ddp": ("ddp", "none"),
    "fsdp": ("fsdp", "none"),
    "hsdp": ("fsdp", "dp_replicate=2,dp_shard=2"),
    "cp": ("fsdp", "cp=2"),
    "tp": ("ddp", "tp=2"),
    "fsdp_tp": ("fsdp", "dp_shard=2,tp=2"),
    "by_hand": ("none", "none"),
    "tp_by_hand": ("none", "tp=2"),
}


def net(layout: str = "single") -> nn.Module:
    """Return the model, divided already if the layout is one of the cell's own."""
    torch.manual_seed(0)
    model = Net()
    if layout == "by_hand":
        from torch.distributed.fsdp import fully_shard

        for block in model.blocks:
            fully_shard(block)
        fully_shard(model)
    if layout == "tp_by_hand":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor.parallel import (
            ColwiseParallel,
            RowwiseParallel,
            parallelize_module,
        )

        mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tp",))
        for block in model.blocks:
            styles = {"first": ColwiseParallel(), "second": RowwiseParallel()}
            parallelize_module(block, mesh, styles)
    return model


def prepared(layout: str, model: nn.Module | None = None, **options: Any) -> Any:
    """Return an Accelerator with the model and an optimizer that has two groups of parameters."""
    os.environ["ACCELNB_STRATEGY"], os.environ["ACCELNB_MESH"] = LAUNCHES[layout]
    AcceleratorState._reset_state()
    GradientState._reset_state()
    # Schedulers step once for each batch then.
    data = DataLoaderConfiguration(split_batches=True, use_stateful_dataloader=True)
    accelerator = Accelerator(dataloader_config=data, **options)
    model = model or net(layout)
    slow = [p for name, p in model.named_parameters() if "norm" in name]
    fast = [p for name, p in model.named_parameters() if "norm" not in name]
    groups = [{"params": fast}, {"params": slow, "lr": 0.01, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.05, eps=1e-4, foreach=False)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    loader = torch.utils.data.DataLoader(torch.arange(80), batch_size=8, shuffle=True)  # pyright: ignore
    return accelerator, *accelerator.prepare(model, optimizer, scheduler, loader)


def following(training: Any, batches: Any = None) -> tuple[float, list[int]]:
    """Return the next random number of this rank, and its next samples."""
    number = torch.rand(1).item()
    return number, next(batches or iter(training[-1])).tolist()


def train(training: Any, first: int, last: int) -> list[float]:
    """Train on the batches `first` to `last`; return the mean losses of all ranks."""
    accelerator, model, optimizer, scheduler, _ = training
    shares, share = accelerator.mesh.data_shares, accelerator.mesh.data_share
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
