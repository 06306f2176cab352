"""FSDP2 trains as DDP does, to the bit, whatever of a model is sharded and how."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch import nn
from torch.nn import functional as F

from accelnb import Accelerator
from accelnb.errors import AccelnbError
from accelnb.training.enums import DistributedType
from accelnb.training.parallel.fsdp import sharded_parts
from accelnb.utils import FullyShardedDataParallelPlugin, TorchDynamoPlugin


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


def train(accelerator: Accelerator, model: nn.Module, steps: int = 3) -> list[float]:
    optimizer = accelerator.prepare_optimizer(torch.optim.AdamW(model.parameters(), 1e-2, eps=1e-4))
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


# ---- as DDP ----

PLUGINS: dict[str, dict[str, Any]] = {
    "default": {},
    "kept": {"reshard_after_forward": False},
    "whole": {"auto_wrap_policy": "no_wrap"},
    "by size": {"auto_wrap_policy": "size_based_wrap", "min_num_params": 500},
    "by name": {"transformer_cls_names_to_wrap": ["Block", "Embedding"]},
    "prefetched": {"forward_prefetch": True},
    "offloaded": {"cpu_offload": True},
    "ignored": {"ignored_modules": r"blocks\.1|head"},
    "checkpointed": {"activation_checkpointing": True},
    "on the CPU": {"activation_checkpointing": True, "activation_checkpointing_offload": True},
    "as it was": {"sync_module_states": True},
}


def _as_ddp() -> dict[str, bool]:
    ddp = outcome(Accelerator())
    found = {
        name: same(outcome(Accelerator(fsdp_plugin=plugin(**options))), ddp)
        for name, options in PLUGINS.items()
    }
    in_bf16 = outcome(Accelerator(mixed_precision="bf16"))
    fsdp = Accelerator(mixed_precision="bf16", fsdp_plugin=plugin())
    found["bf16"] = same(outcome(fsdp), in_bf16) and not same(in_bf16, ddp)
    steps = {"gradient_accumulation_steps": 2}
    twice = outcome(Accelerator(**steps), steps=4)
    sharded = Accelerator(**steps, fsdp_plugin=plugin(ignored_modules="head"))
    found["accumulated"] = same(outcome(sharded, steps=4), twice)
    return found


def test_every_way_to_shard_trains_as_ddp_to_the_bit():
    for found in on_ranks(_as_ddp):
        assert [name for name, equal in found.items() if not equal] == []


def _hybrid() -> dict[str, Any]:
    accelerator = Accelerator()
    ddp = outcome(Accelerator())
    found: dict[str, Any] = {"type": accelerator.distributed_type}
    return found | {"ddp": ddp}
