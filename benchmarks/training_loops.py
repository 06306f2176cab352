"""The loops that ``training.py`` times: by hand, with accelnb, with Accelerate.

All run in the same processes and take turns, a block of steps each, so that whatever else the
machine does meets all alike. Started by ``training.py`` under torchrun or alone; writes seconds
a step for each contender and block.

    torchrun --nproc-per-node 2 benchmarks/training_loops.py transformer 20 15 out.json cpu
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

_SAMPLES = 1 << 20  # more than any run takes
CONTENDERS = ("by hand", "accelnb", "Accelerate")


class Repeated(Dataset[Any]):
    """The same sample again and again: loading it costs next to nothing."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self._sample = x, y

    def __len__(self) -> int:
        return _SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._sample


class Transformer(nn.Module):
    """A small encoder, for throughput: 4 layers of width 128 on 64 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(128, 256)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.embed(tokens))).mean(1)


def make(model: str) -> tuple[nn.Module, DataLoader[Any]]:
    torch.manual_seed(0)
    if model == "mlp":
        sample = torch.randn(8), torch.tensor(1)
        network: nn.Module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    else:
        sample = torch.randint(256, (64,)), torch.tensor(1)
        network = Transformer()
    return network, DataLoader(Repeated(*sample), batch_size=8)


def by_hand(model: str, device: str) -> tuple[float, Iterator[None]]:
    network, loader = make(model)
    network.to(device)
    optimizer = torch.optim.AdamW(network.parameters())
    scheduler = LambdaLR(optimizer, lambda step: 1.0)
    start = time.perf_counter()
    if dist.is_initialized():
        network = DistributedDataParallel(network)
    prepared = time.perf_counter() - start

    def steps() -> Iterator[None]:
        for x, y in loader:
            loss = cross_entropy(network(x.to(device)), y.to(device))
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            yield

    return prepared, steps()


def with_accelerator(accelerator: Any, model: str) -> tuple[float, Iterator[None]]:
    network, loader = make(model)
    optimizer = torch.optim.AdamW(network.parameters())
    scheduler = LambdaLR(optimizer, lambda step: 1.0)
    start = time.perf_counter()
    network, optimizer, loader, scheduler = accelerator.prepare(
        network, optimizer, loader, scheduler
    )
    prepared = time.perf_counter() - start

    def steps() -> Iterator[None]:
        for x, y in loader:
            with accelerator.accumulate(network):
                loss = cross_entropy(network(x), y)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            yield

    return prepared, steps()


def accelnb(model: str, device: str) -> tuple[float, Iterator[None]]:
    from accelnb import Accelerator

    return with_accelerator(Accelerator(cpu=device == "cpu"), model)


def accelerate(model: str, device: str) -> tuple[float, Iterator[None]]:
    from accelerate import Accelerator

    return with_accelerator(Accelerator(cpu=device == "cpu"), model)


def main(model: str, steps: int, blocks: int, out: Path, device: str) -> None:
    finish: Callable[[], Any] = torch.cuda.synchronize if device == "cuda" else int
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl")
    makers: tuple[Callable[[str, str], Any], ...] = (by_hand, accelnb, accelerate)
    made = {name: maker(model, device) for name, maker in zip(CONTENDERS, makers, strict=True)}
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for block in range(blocks + 1):
        order = CONTENDERS if block % 2 else CONTENDERS[::-1]
        for name in order:
            loop = made[name][1]
            start = time.perf_counter()
            for _ in range(steps):
                next(loop)
            finish()
            if block:  # the first warms up
                seconds[name].append((time.perf_counter() - start) / steps)
    if int(os.environ.get("RANK", "0")) == 0:
        prepare = {name: prepared for name, (prepared, _) in made.items()}
        out.write_text(json.dumps({"step": seconds, "prepare": prepare}))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5])
