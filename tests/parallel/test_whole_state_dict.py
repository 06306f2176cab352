"""``load_state_dict`` of a prepared model takes whole weights, however it is divided."""

from __future__ import annotations

from typing import Any

import torch
from ranks import on_ranks
from torch import nn

from accelnb import Accelerator
from accelnb.utils import ParallelismConfig


class Net(nn.Module):
    tp_plan = {"blocks.*.up": "colwise", "blocks.*.down": "rowwise"}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(6, 3)
        self.tied = nn.Linear(6, 3)
        self.tied.weight = self.head.weight
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x) + self.tied(x)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(x))


def _loaded(sizes: dict[str, int], **options: Any) -> dict[str, Any]:
    accelerator = Accelerator(parallelism_config=ParallelismConfig(**sizes), **options)
    torch.manual_seed(1)
    wanted = Net()
    wanted.seen.fill_(5)
    model = accelerator.prepare(Net())
    model(torch.ones(1, 6)).sum().backward()  # some weights are gathered now
    parameters = list(model.parameters())
    model.load_state_dict(wanted.state_dict())
    own = model.state_dict()
    model.load_state_dict(own)  # parts too, as ever
    try:
        model.load_state_dict(wanted.state_dict() | {"head.weight": torch.zeros(2, 6)})
        said = ""
    except RuntimeError as error:
        said = str(error)
    model.load_state_dict(wanted.state_dict())
    whole = accelerator.get_state_dict(model)
    return {
        "the same": all(torch.equal(whole[name], it) for name, it in wanted.state_dict().items())
        if accelerator.is_main_process
        else not whole,
        "parameters stay": all(a is b for a, b in zip(parameters, model.parameters(), strict=True)),
        "another shape": "size mismatch for head.weight" in said,
    }


def _in_each_way() -> list[dict[str, Any]]:
    return [
        _loaded({"dp_shard_size": 2, "tp_size": 2}),
        _loaded({"dp_shard_size": 4}, activation_checkpointing=True),
        _loaded({"dp_replicate_size": 2, "dp_shard_size": 2}),
    ]


def test_each_rank_takes_its_part():
    for of_rank in on_ranks(_in_each_way, procs=4):
        for found in of_rank:
            assert set(found.values()) == {True}, found
