"""A small transformer, trained by an Accelerator with FSDP or without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from accelnb import Accelerator
from accelnb.training.parallel.fully_sharded.sharding import sharded_parts
from accelnb.utils import FullyShardedDataParallelPlugin


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Net(nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 16)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(16, 32, bias=False)
        self.scale = nn.Parameter(torch.tensor(1.5))
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x) * self.scale

    @torch.no_grad()
    def generate(self, tokens: torch.Tensor) -> torch.Tensor:
        start = self.embed(tokens).sum()  # uses a weight before it calls the model
        for _ in range(3):
            tokens = torch.cat([tokens, self(tokens)[:, -1:].argmax(-1)], 1)
        return tokens + start.isnan()


def plugin(**options: Any) -> FullyShardedDataParallelPlugin:
    return FullyShardedDataParallelPlugin(**options)


def made(make: Callable[[], nn.Module] = Net) -> nn.Module:
    torch.manual_seed(torch.distributed.get_rank())  # equal only once they are prepared
    return make()


def batch(accelerator: Accelerator, step: int) -> torch.Tensor:
    tokens = torch.randint(0, 32, (8, 9), generator=torch.Generator().manual_seed(step))
    return tokens.chunk(accelerator.num_processes)[accelerator.process_index]


def loss_of(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def train(
    accelerator: Accelerator, model: nn.Module, steps: int = 3, optimizer: Any = None
) -> list[float]:
    if optimizer is None:
        made_after = torch.optim.AdamW(model.parameters(), 1e-2, eps=1e-4)
        optimizer = accelerator.prepare_optimizer(made_after)
    losses = []
    for step in range(steps):
        with accelerator.accumulate(model):
            loss = loss_of(model, batch(accelerator, step))
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


def outcome(
    accelerator: Accelerator, make: Callable[[], nn.Module] = Net, steps: int = 3
) -> tuple[list[float], list[torch.Tensor]]:
    """Return losses and, after training, whole weights."""
    model = accelerator.prepare_model(made(make))
    losses = train(accelerator, model, steps)
    return losses, [whole(parameter) for parameter in model.parameters()]


def whole(parameter: Any) -> torch.Tensor:
    full_tensor = getattr(parameter, "full_tensor", None)
    return (parameter if full_tensor is None else full_tensor()).detach().clone()


def same(one: tuple[list[float], list[torch.Tensor]], other: Any) -> bool:
    weights = zip(one[1], other[1], strict=True)
    return one[0] == other[0] and all(torch.equal(a, b) for a, b in weights)


def units_of(model: nn.Module) -> list[str]:
    parts = {id(part) for part in sharded_parts(model)}
    return [name for name, part in model.named_modules() if id(part) in parts]
