"""The loops that ``parallel.py`` times: one model divided by hand, with accelnb, with Accelerate.

All run in the same processes and take turns, a block of steps each. Started by ``parallel.py``
under torchrun; rank 0 writes seconds a step for each contender and block, and what each rank
holds after a step.

    torchrun --nproc-per-node 2 benchmarks/parallel_loops.py fsdp 5 11 out.json
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention
from torch.nn.parallel import DistributedDataParallel

_WORDS, _WIDTH, _PLACES, _BATCH = 512, 256, 128, 8
_COLWISE, _ROWWISE = ("q", "k", "v", "up"), ("out", "down")
# The mesh of each way to divide, on as many ranks as its sizes multiply to.
MESHES = {
    "ddp": {"dp_replicate": 2},
    "fsdp": {"dp_shard": 2},
    "tp": {"tp": 2},
    "fsdp x tp": {"dp_shard": 2, "tp": 2},
}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)
        self.q, self.k, self.v = (nn.Linear(_WIDTH, _WIDTH) for _ in range(3))
        self.out, self.up = nn.Linear(_WIDTH, _WIDTH), nn.Linear(_WIDTH, 4 * _WIDTH)
        self.down = nn.Linear(4 * _WIDTH, _WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.before(x)
        heads = [f(y).unflatten(-1, (-1, 32)).transpose(1, 2) for f in (self.q, self.k, self.v)]
        seen = scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.down(gelu(self.up(self.between(x))))


class Model(nn.Module):
    """A language model of 6 blocks and 5 million weights."""

    def __init__(self) -> None:
        super().__init__()
        plan = {f"blocks.*.{name}": "colwise" for name in _COLWISE}
        self.tp_plan = plan | {f"blocks.*.{name}": "rowwise" for name in _ROWWISE}
        self.words = nn.Embedding(_WORDS, _WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(6))
        self.norm, self.head = nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, _WORDS)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def model_and_optimizer() -> tuple[Model, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Model()
    return model, torch.optim.AdamW(model.parameters(), 1e-4)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(_WORDS, (_BATCH, _PLACES + 1), generator=torch.Generator())
    return tokens[:, :-1], tokens[:, 1:]


def by_hand(sizes: dict[str, int]) -> tuple[Callable[[], None], Any]:
    model, _ = model_and_optimizer()
    mesh = init_device_mesh("cpu", tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    if "tp" in sizes:
        plan: dict[str, Any] = dict.fromkeys(_COLWISE, ColwiseParallel())
        plan |= dict.fromkeys(_ROWWISE, RowwiseParallel())
        for block in model.blocks:
            parallelize_module(block, mesh["tp"], plan)
    trained: nn.Module = model
    if "dp_shard" in sizes:
        for block in model.blocks:
            fully_shard(block, mesh=mesh["dp_shard"])
        fully_shard(model, mesh=mesh["dp_shard"])
    elif "dp_replicate" in sizes:
        trained = DistributedDataParallel(model)
    foreach = False if "tp" in sizes else None  # torch cannot step two meshes at once
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, foreach=foreach)
    x, y = batch()

    def step() -> None:
        loss = cross_entropy(trained(x).flatten(0, 1), y.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, (trained, optimizer)


def with_accelerator(accelerator: Any) -> tuple[Callable[[], None], Any]:
    model, optimizer = accelerator.prepare(*model_and_optimizer())
    x, y = batch()

    def step() -> None:
        loss = cross_entropy(model(x).flatten(0, 1), y.flatten())
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    return step, (model, optimizer)


def contenders(sizes: dict[str, int]) -> dict[str, tuple[Callable[[], None], Any]]:
    import accelerate

    import accelnb

    given: dict[str, Any] = {f"{name}_size": size for name, size in sizes.items()}
    config = accelnb.ParallelismConfig(**given)
    found = {
        "by hand": by_hand(sizes),
        "accelnb": with_accelerator(accelnb.Accelerator(parallelism_config=config)),
    }
    if set(sizes) == {"dp_replicate"}:  # on CPUs Accelerate divides nothing
        found["Accelerate"] = with_accelerator(accelerate.Accelerator(cpu=True))
    return found


def size(tensors: Iterable[Any]) -> int:
    """Return the bytes of this rank's parts."""
    parts = [t.to_local() if hasattr(t, "to_local") else t for t in tensors if t is not None]
    return sum(part.numel() * part.element_size() for part in parts)


def held(model: nn.Module, optimizer: Any) -> int:
    """Return the bytes of weights and optimizer states on this rank."""
    states = (v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v))
    return size(model.parameters()) + size(states)


def main(name: str, steps: int, blocks: int, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    loops = contenders(MESHES[name])
    seconds: dict[str, list[float]] = {contender: [] for contender in loops}
    for block in range(blocks + 1):  # the first warms up
        for contender, (step, _) in loops.items():
            dist.barrier()
            begin = time.perf_counter()
            for _ in range(steps):
                step()
            if block:
                seconds[contender].append((time.perf_counter() - begin) / steps)
    holds = {contender: held(*trained) for contender, (_, trained) in loops.items()}
    on_ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(on_ranks, holds)
    if dist.get_rank() == 0:
        most = {contender: max(rank[contender] for rank in on_ranks) for contender in loops}
        out.write_text(json.dumps({"step": seconds, "held": most}))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
