"""The loops that ``training.py`` times: by hand, with accelnb, with Accelerate.

A GPT runs in bf16, with its outputs converted to fp32 and left as they were computed; the other
models in fp32. All run in the same processes and take turns, a block of steps each, so that
whatever else the machine does meets all alike. Started by ``training.py`` under torchrun or alone;
writes seconds a step for each contender and block.

    torchrun --nproc-per-node 2 benchmarks/training_loops.py transformer 20 15 out.json cpu
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

_SAMPLES = 1 << 20  # more than any run takes
CONTENDERS = ("by hand", "accelnb", "Accelerate")
IN_BF16 = (
    "by hand, outputs to fp32",
    "by hand, outputs left in bf16",
    "accelnb",
    "accelnb, outputs=compute",
    "Accelerate",
)


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


class Block(nn.Module):
    """A layer of a GPT."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.attend(self.before(x)).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0)
        query, key, value = (part.transpose(1, 2) for part in parts)
        seen = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project(seen.transpose(1, 2).flatten(-2))
        return x + self.mlp(self.between(x))


class GPT(nn.Module):
    """A decoder with the sizes of GPT-2; its head is its embedding."""

    def __init__(self, layers: int, width: int, heads: int, vocabulary: int, tokens: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, width), nn.Embedding(tokens, width)
        self.layers = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.norm(self.layers(self.embed(tokens) + self.place(places))))


def gpt(device: str) -> tuple[nn.Module, DataLoader[Any]]:
    """Return a GPT of 124M parameters and 16 x 1,024 tokens; on the CPU a tiny one."""
    layers, width, heads, vocabulary, tokens, batch = 12, 768, 12, 50_304, 1024, 16
    if device == "cpu":
        layers, width, heads, vocabulary, tokens, batch = 2, 64, 4, 2048, 64, 4
    sample = torch.randint(vocabulary, (2, tokens))
    network = GPT(layers, width, heads, vocabulary, tokens)
    return network, DataLoader(Repeated(*sample), batch_size=batch)


def make(model: str, device: str) -> tuple[nn.Module, DataLoader[Any]]:
    torch.manual_seed(0)
    if model == "gpt":
        return gpt(device)
    if model == "mlp":
        sample = torch.randn(8), torch.tensor(1)
        network: nn.Module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    else:
        sample = torch.randint(256, (64,)), torch.tensor(1)
        network = Transformer()
    return network, DataLoader(Repeated(*sample), batch_size=8)


def optimizer_of(model: str, network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), fused=model == "gpt" or None)


def loss_of(scores: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return cross_entropy(scores.flatten(0, -2), y.flatten())


def by_hand(model: str, device: str, keeps_outputs: bool = False) -> tuple[float, Iterator[None]]:
    network, loader = make(model, device)
    network.to(device)
    optimizer = optimizer_of(model, network)
    scheduler = LambdaLR(optimizer, lambda step: 1.0)
    start = time.perf_counter()
    if dist.is_initialized():
        network = DistributedDataParallel(network)
    prepared = time.perf_counter() - start

    def in_bf16(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16):
            scores = network(x)
        return scores if keeps_outputs else scores.float()

    compute = in_bf16 if model == "gpt" else network

    def steps() -> Iterator[None]:
        for x, y in loader:
            loss = loss_of(compute(x.to(device)), y.to(device))
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            yield

    return prepared, steps()


def with_accelerator(accelerator: Any, model: str) -> tuple[float, Iterator[None]]:
    network, loader = make(model, accelerator.device.type)
    optimizer = optimizer_of(model, network)
    scheduler = LambdaLR(optimizer, lambda step: 1.0)
    start = time.perf_counter()
    network, optimizer, loader, scheduler = accelerator.prepare(
        network, optimizer, loader, scheduler
    )
    prepared = time.perf_counter() - start

    def steps() -> Iterator[None]:
        for x, y in loader:
            with accelerator.accumulate(network):
                loss = loss_of(network(x), y)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            yield

    return prepared, steps()


def accelnb(model: str, device: str, keeps_outputs: bool = False) -> tuple[float, Iterator[None]]:
    from accelnb import Accelerator
    from accelnb.utils import AutocastKwargs

    outputs = AutocastKwargs(outputs="compute" if keeps_outputs else "fp32")
    accelerator = Accelerator(
        cpu=device == "cpu", mixed_precision=precision(model), kwargs_handlers=[outputs]
    )
    return with_accelerator(accelerator, model)


def accelerate(model: str, device: str) -> tuple[float, Iterator[None]]:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision(model))
    return with_accelerator(accelerator, model)


def precision(model: str) -> str:
    return "bf16" if model == "gpt" else "no"


def makers(model: str) -> dict[str, Callable[[str, str], Any]]:
    if model != "gpt":
        return dict(zip(CONTENDERS, (by_hand, accelnb, accelerate), strict=True))
    leaving = partial(by_hand, keeps_outputs=True), partial(accelnb, keeps_outputs=True)
    loops = by_hand, leaving[0], accelnb, leaving[1], accelerate
    return dict(zip(IN_BF16, loops, strict=True))


def main(model: str, steps: int, blocks: int, out: Path, device: str) -> None:
    finish: Callable[[], Any] = torch.cuda.synchronize if device == "cuda" else int
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl")
    made = {name: maker(model, device) for name, maker in makers(model).items()}
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for block in range(blocks + 1):
        order = list(made) if block % 2 else list(made)[::-1]
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
