"""Processes that share sequences compute what one process with whole sequences computes."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from accelnb import Accelerator, AccelnbError
from accelnb.utils import (
    DeepSpeedSequenceParallelConfig,
    ParallelismConfig,
    TorchContextParallelConfig,
    TorchTensorParallelConfig,
)

STEPS, BATCH, LENGTH, WORDS = 6, 8, 16, 64


class Block(nn.Module):
    def __init__(self, recompute: bool | None) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))
        self.up, self.down = nn.Linear(32, 128), nn.Linear(128, 32)
        self.reentrant = recompute

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.reentrant is None:
            return self.computed(x)
        return checkpoint(self.computed, x, use_reentrant=self.reentrant)

    def computed(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.n1(x)
        q, k, v = (
            layer(normed).unflatten(-1, (-1, 8)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(seen.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class Gpt(nn.Module):
    tp_plan = {f"blocks.*.{name}": "colwise" for name in ("q", "k", "v", "up")} | {
        "blocks.*.o": "rowwise",
        "blocks.*.down": "rowwise",
    }

    def __init__(self, recompute: bool | None = None) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, 32), nn.Embedding(LENGTH, 32)
        self.blocks = nn.ModuleList(Block(recompute) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, WORDS, bias=False)

    def forward(self, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens) + self.places(places)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def batches() -> list[torch.Tensor]:
    """Labels are missing the more often the later they are: each part has another number."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(WORDS, (BATCH, LENGTH + 1), generator=generator) for _ in range(STEPS)]


def labels_of(tokens: torch.Tensor) -> torch.Tensor:
    labels = tokens[:, 1:].clone()
    generator = torch.Generator().manual_seed(int(tokens.sum()))
    drawn = torch.rand(labels.shape, generator=generator)
    labels[drawn < torch.linspace(0, 0.9, LENGTH)] = -100
    return labels


def total_of(model: Any, tokens: torch.Tensor, places: torch.Tensor, labels: torch.Tensor) -> Any:
    return F.cross_entropy(
        model(tokens, places).flatten(0, 1).float(), labels.flatten(), reduction="sum"
    )


Trained = tuple[list[float], list[float], dict[str, torch.Tensor]]


def trained_alone(accumulation: int = 1) -> Trained:
    """What plain torch computes: losses, norms before clipping, and weights."""
    torch.manual_seed(0)
    model = Gpt()
    optimizer = torch.optim.SGD(model.parameters(), 0.5, momentum=0.9)
    losses, norms, data = [], [], batches()
    for start in range(0, STEPS, accumulation):
        step = torch.cat(data[start : start + accumulation])
        labels = labels_of_each(data[start : start + accumulation])
        loss = total_of(model, step[:, :-1], torch.arange(LENGTH)[None], labels)
        loss = loss / (labels != -100).sum()
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.4).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, norms, model.state_dict()


def labels_of_each(data: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([labels_of(tokens) for tokens in data])


def trained(
    sizes: dict[str, int],
    strategy: str = "fsdp",
    cp: str = "allgather",
    recompute: bool | None = None,
    backward_after: bool = False,
    accumulation: int = 1,
    tensor: dict[str, bool] | None = None,
) -> Trained:
    """What a raw loop computes on ranks."""
    os.environ["ACCELNB_STRATEGY"] = strategy
    config = ParallelismConfig(
        **{f"{name}_size": size for name, size in sizes.items()},
        tp_handler=TorchTensorParallelConfig(
            plan=Gpt.tp_plan | {"head": "colwise_gather_output"}, **tensor
        )
        if tensor
        else None,
        cp_handler=TorchContextParallelConfig(cp_comm_strategy=cp) if "cp" in sizes else None,
    )
    accelerator = Accelerator(parallelism_config=config, gradient_accumulation_steps=accumulation)
    torch.manual_seed(0)
    model = Gpt(recompute)
    model = accelerator.prepare(model)
    optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), 0.5, momentum=0.9))
    shares, share = accelerator.mesh.data_shares, accelerator.mesh.data_share
    losses, norms, summed = [], [], 0.0
    data = batches()
    for number, whole in enumerate(data):
        first = number - number % accumulation
        counted = sum(
            int((labels_of(tokens).chunk(shares)[share] != -100).sum())
            for tokens in data[first : first + accumulation]
        )
        tokens = whole[:, :-1].chunk(shares)[share]
        labels = labels_of(whole).chunk(shares)[share]
        places = torch.arange(LENGTH)[None]
        given = [tokens, places, labels]
        with accelerator.accumulate(model):
            with accelerator.maybe_context_parallel(given, [1, 1, 1], given * backward_after):
                with accelerator.loss_parallel():
                    total = total_of(model, tokens, places, labels)
                count = (labels != -100).sum()
                loss = (
                    accelerator.mean_of_tokens(total, count)
                    if accumulation == 1
                    else accelerator.mean_of_tokens(total, step_count=counted)
                )
                if not backward_after:
                    accelerator.backward(loss)
            if backward_after:
                with torch.no_grad():
                    model(whole[:, :-1], torch.arange(LENGTH)[None])
                accelerator.backward(loss)
            else:
                assert tokens.shape[1] == labels.shape[1] == places.shape[1] == LENGTH
                assert tokens.equal(whole[:, :-1].chunk(shares)[share])
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(model.parameters(), 0.4)
                norms.append(float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm))
            optimizer.step()
            optimizer.zero_grad()
        summed += accelerator.reduce(loss.detach(), "mean").item() / accumulation
        if accelerator.sync_gradients:
            losses.append(summed)
            summed = 0.0
    return losses, norms, accelerator.get_state_dict(model)


def all_trained(cases: list[dict[str, Any]]) -> list[Trained]:
    return [trained(**case) for case in cases]


def assert_equal(result: Trained, expected: Trained) -> None:
    assert result[0] == pytest.approx(expected[0], abs=1e-6)
    assert result[1] == pytest.approx(expected[1], abs=1e-6)
    if result[2]:
        torch.testing.assert_close(result[2], expected[2], atol=1e-6, rtol=0)


def check(procs: int, cases: list[dict[str, Any]]) -> None:
    alone = {n: trained_alone(n) for n in {case.get("accumulation", 1) for case in cases}}
    for rank, results in enumerate(on_ranks(all_trained, cases, procs=procs, timeout=200)):
        for case, result in zip(cases, results, strict=True):
            try:
                assert_equal(result, alone[case.get("accumulation", 1)])
            except AssertionError as error:
                raise AssertionError(f"rank {rank}, {case}: {error}") from None


def test_two_ranks_share_sequences_as_one_process_has_them():
    check(
        2,
        [
            {"sizes": {"cp": 2}},
            {"sizes": {"sp": 2}},
            {"sizes": {"cp": 2}, "cp": "alltoall"},
            {"sizes": {"cp": 2}, "strategy": "ddp"},
            {"sizes": {"cp": 2}, "accumulation": 3},
            {"sizes": {"dp_shard": 2}, "accumulation": 2},
            {"sizes": {"dp_replicate": 2}, "strategy": "ddp"},
        ],
    )


def test_activations_computed_again_are_of_the_whole_sequence_also_after_the_block():
    check(
        2,
        [
            {"sizes": {name: 2}, "recompute": reentrant, "backward_after": after}
            for name in ("cp", "sp")
            for reentrant in (False, True)
            for after in (False, True)
        ],
    )


def test_four_ranks_share_sequences_and_data():
    check(
        4,
        [
            {"sizes": {"cp": 4}},
            {"sizes": {"sp": 4}},
            {"sizes": {"dp_shard": 2, "cp": 2}},
            {"sizes": {"dp_shard": 2, "sp": 2}},
            {"sizes": {"dp_replicate": 2, "cp": 2}},
            {"sizes": {"dp_replicate": 2, "sp": 2}, "strategy": "ddp"},
            {"sizes": {"cp": 2, "tp": 2}},
            {"sizes": {"sp": 2, "tp": 2}},
            {"sizes": {"cp": 2, "tp": 2}, "tensor": {"loss_parallel": True}},
            {"sizes": {"sp": 2, "tp": 2}, "tensor": {"sequence_parallel": True}},
            {"sizes": {"dp_shard": 2, "cp": 2}, "accumulation": 3},
        ],
    )


@pytest.mark.timeout(240)
def test_eight_ranks_share_sequences_data_and_layers():
    check(
        8,
        [
            {"sizes": {"dp_shard": 2, "cp": 2, "tp": 2}},
            {"sizes": {"dp_replicate": 2, "sp": 2, "tp": 2}},
            {"sizes": {"dp_replicate": 2, "dp_shard": 2, "cp": 2}},
        ],
    )


class WithTable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("places", torch.arange(LENGTH))


def refusals() -> list[str]:
    said = []

    def refused(call: Any) -> None:
        try:
            call()
        except AccelnbError as error:
            said.append(str(error))

    def enter(accelerator: Accelerator, tensor: torch.Tensor) -> None:
        with accelerator.maybe_context_parallel([tensor], [0]):
            said.append("entered")

    os.environ["ACCELNB_STRATEGY"] = "ddp"
    by_gathering = Accelerator(parallelism_config=ParallelismConfig(cp_size=2))
    refused(lambda: enter(by_gathering, torch.zeros(5)))
    model = WithTable()
    by_gathering.prepare(model)
    refused(lambda: enter(by_gathering, model.places))
    assert len(model.places) == LENGTH
    eager = WithTable()
    eager.config = SimpleNamespace(_attn_implementation="eager")
    refused(lambda: by_gathering.prepare(eager))
    of_one_length = DeepSpeedSequenceParallelConfig(8, sp_seq_length_is_variable=False)
    config = ParallelismConfig(sp_size=2, sp_handler=of_one_length)
    refused(lambda: enter(Accelerator(parallelism_config=config), torch.zeros(6)))
    return said


def test_what_a_mesh_cannot_share_is_refused_in_one_line():
    for said in on_ranks(refusals):
        for line, expected in zip(
            said,
            [
                "a sequence of 5 is not divided by 2 ranks: pad it to 6",
                "buffers[0] is a buffer of the model, which DDP overwrites",
                "WithTable computes attention by eager",
                "a sequence of 6, but sp_seq_length=8",
            ],
            strict=True,
        ):
            assert expected in line


def gathered() -> tuple[list[list[int]], list[list[int]]]:
    """What ranks that share sequences gather, and its gradient."""
    accelerator = Accelerator(parallelism_config=ParallelismConfig(cp_size=2))
    part = torch.arange(4.0).view(2, 2).t().add(10 * accelerator.process_index).requires_grad_()
    whole = accelerator.gather_sequence(part)
    (whole * torch.arange(8.0).view(2, 4)).sum().backward()
    assert part.grad is not None
    return whole.int().tolist(), part.grad.int().tolist()


def test_parts_of_a_sequence_are_gathered_with_the_gradients_of_all_ranks():
    first, second = on_ranks(gathered)
    assert first[0] == second[0] == [[0, 2, 10, 12], [1, 3, 11, 13]]
    assert first[1] == [[0, 2], [8, 10]]
    assert second[1] == [[4, 6], [12, 14]]
