"""Sharded models of which the ranks use different parts train as one process does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch import nn

from accelnb import Accelerator
from accelnb.utils import ParallelismConfig

STEPS = 4


class Experts(nn.Module):
    """Of a block's experts, which are all alike, each sample goes to one; one is never asked."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            if (its := chosen == number).any():
                y = y.index_put((its,), expert(x[its]))
        return x + y


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Experts() for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x: torch.Tensor, chosen: torch.Tensor, task: int) -> torch.Tensor:
        for block in self.blocks:
            x = block(x, chosen)
        return self.heads[task](x)


def _trained(**sizes: int) -> dict[str, Any]:
    config = ParallelismConfig(**sizes) if sizes else None
    accelerator = Accelerator(parallelism_config=config)
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.05, eps=1e-4, weight_decay=0.5)
    model, optimizer = accelerator.prepare(model, optimizer)
    named = dict(model.named_parameters())
    without: list[set[str]] = []
    for step in range(STEPS):
        draw = torch.Generator().manual_seed(step)
        x, chosen = torch.randn(4, 8, generator=draw), torch.tensor([0, 0, 1, 2]).roll(step)
        share, shares = accelerator.mesh.data_share, accelerator.mesh.data_shares
        x, chosen = x.chunk(shares)[share], chosen.chunk(shares)[share]
        accelerator.backward(model(x, chosen, task=step % 2).pow(2).mean())
        without.append({name for name, it in named.items() if it.grad is None})
        accelerator.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    weights = accelerator.get_state_dict(model)
    return {"weights": {n: w.flatten().tolist() for n, w in weights.items()}, "without": without}


def _in_each_way() -> list[dict[str, Any]]:
    return [_trained(dp_shard_size=4), _trained(dp_replicate_size=2, dp_shard_size=2)]


def test_what_only_some_ranks_use_is_averaged_and_what_none_uses_stays_as_it_is():
    expected = _trained()
    of_ranks = on_ranks(_in_each_way, procs=4)
    for sharded, copies in of_ranks:
        assert sharded["without"] == copies["without"] == expected["without"]
    assert all("blocks.0.experts.3.weight" in names for names in expected["without"])
    for found in of_ranks[0]:
        for name, weight in expected["weights"].items():
            assert found["weights"][name] == pytest.approx(weight, abs=1e-6), name
