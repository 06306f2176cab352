"""Clipping and fp16 of models that are sharded in any way, compared with one process."""

from __future__ import annotations

import math

import pytest
import torch
from ranks import on_ranks
from torch import nn

from accelnb import Accelerator
from accelnb.errors import AccelnbError
from accelnb.utils import GradScalerKwargs

KINDS = ("fsdp", "tp", "fsdp tp", "hsdp", "sequence", "two meshes")
NORMS = (2.0, 1.0, math.inf)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(self.norm(x))))


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block(), nn.Linear(8, 3))


def batch():
    draws = torch.Generator().manual_seed(1)
    return torch.randn(4, 4, 8, generator=draws), torch.randn(4, 4, 3, generator=draws)


def sharded(kind: str):
    """Return a model that is divided over four ranks, and this rank's part of the batch."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor import parallel as tp

    rank = torch.distributed.get_rank()
    grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    made, shares, share = model(), 1, 0
    rows = tp.RowwiseParallel(output_layouts=Replicate())
    plan = {"up": tp.ColwiseParallel(), "down": rows}
    if kind == "sequence":  # the gradients of its normalization are sums not yet added up
        cut = tp.PrepareModuleInput(input_layouts=(Replicate(),), desired_input_layouts=(Shard(1),))
        for block in made[:2]:
            tp.parallelize_module(block.norm, grid["tp"], cut)
        plan |= {"norm": tp.SequenceParallel(), "up": tp.ColwiseParallel(input_layouts=Shard(1))}
    if kind in ("tp", "fsdp tp", "sequence", "two meshes"):
        for block in made[:2]:
            tp.parallelize_module(block, grid["tp"], plan)
    if kind in ("fsdp", "hsdp", "fsdp tp", "two meshes"):
        mesh = {
            "fsdp": init_device_mesh("cpu", (4,)), "hsdp": grid,
        }.get(kind, grid["dp"])  # fmt: skip
        for block in made[:1] if kind == "two meshes" else made:
            fully_shard(block, mesh=mesh)
        if kind != "two meshes":  # there the rest has whole gradients, of the whole batch
            fully_shard(made, mesh=mesh)
            shares, share = (4, rank) if kind in ("fsdp", "hsdp") else (2, rank // 2)
    return made, [part.chunk(shares)[share] for part in batch()]


def whole(tensor):
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def clipped(accelerator, made, part, norm_type):
    x, y = part
    made.zero_grad()
    accelerator.backward(nn.functional.mse_loss(made(x), y))
    norm = accelerator.clip_grad_norm_(made.parameters(), 0.01, norm_type)
    assert type(norm) is torch.Tensor
    after = accelerator.clip_grad_norm_(made.parameters(), 1.0, norm_type)
    gradients = torch.cat([whole(p.grad).flatten() for p in made.parameters()])
    accelerator.clip_grad_value_(made.parameters(), 1e-4)
    assert max(whole(p.grad).abs().max() for p in made.parameters()) == pytest.approx(1e-4)
    return norm.item(), after.item(), gradients


def _clipped_in_every_way():
    accelerator = Accelerator()
    found = {}
    for kind in KINDS:
        for norm_type in NORMS:
            one = clipped(accelerator, model(), batch(), norm_type)
            other = clipped(accelerator, *sharded(kind), norm_type)
            away = (one[2] - other[2]).abs().max() / one[2].abs().max()
            found[kind, norm_type] = one[:2], other[:2], away.item()
    return found


def test_gradients_are_clipped_as_in_one_process_however_they_are_sharded():
    ranks = on_ranks(_clipped_in_every_way, procs=4, strategy="none")
    for found in ranks:
        for case, (one, other, away) in found.items():
            assert other == ranks[0][case][1], case  # to the bit, or ranks would part
            assert other == pytest.approx(one, rel=1e-6), case
            assert away < 1e-5, case


def _overflows(kind: str) -> list:
    scale = GradScalerKwargs(init_scale=8.0)
    accelerator = Accelerator(mixed_precision="fp16", kwargs_handlers=[scale])
    made, (x, y) = sharded(kind)
    made, optimizer = accelerator.prepare(made, torch.optim.AdamW(made.parameters(), lr=0.1))
    rank, seen = torch.distributed.get_rank(), []
    for step in range(4):
        loss = nn.functional.mse_loss(made(x).float(), y)
        accelerator.backward(loss)
        gradients = [p.grad for p in made.parameters()]
        if step == 1 and rank == 3:
            local(gradients[2]).view(-1)[0] = math.inf
        if step == 2 and rank == 2:
            accelerator.scaler._scale.mul_(2)  # as after a stop between two ranks' steps
        optimizer.step()
        seen.append((optimizer.step_was_skipped, accelerator.scaler.get_scale()))
        optimizer.zero_grad()
    return [*seen, sum(whole(p).double().sum().item() for p in made.parameters())]


def local(gradient):
    return gradient.to_local() if hasattr(gradient, "to_local") else gradient


def _overflows_in_every_way():
    return {kind: _overflows(kind) for kind in ("fsdp", "tp", "fsdp tp", "hsdp")}


def test_one_ranks_overflow_leaves_out_the_step_on_all_and_scales_stay_equal():
    ranks = on_ranks(_overflows_in_every_way, procs=4, strategy="none")
    for kind in ranks[3]:
        # With tp alone each two ranks have a model of their own.
        together = ranks[2:] if kind == "tp" else ranks
        for *seen, total in (found[kind] for found in together):
            assert seen == [(False, 8.0), (True, 4.0), (True, 2.0), (False, 2.0)], kind
            assert total == ranks[3][kind][-1], kind
    assert [found["tp"][1] for found in ranks[:2]] == 2 * [(False, 8.0)]


def _before_the_last_batch() -> list[str]:
    accelerator = Accelerator()
    made, (x, _) = sharded("fsdp")
    made.set_requires_gradient_sync(False)
    made(x).sum().backward()
    said = []
    for clip in (accelerator.clip_grad_norm_, accelerator.clip_grad_value_):
        with pytest.raises(AccelnbError) as refused:
            clip(made.parameters(), 1.0)
        said.append(str(refused.value))
    with pytest.raises(AccelnbError, match="positive types"):
        accelerator.clip_grad_norm_(made.parameters(), 1.0, 0)
    return said


def test_gradients_that_are_not_there_yet_are_not_said_to_be_zero():
    for norm, value in on_ranks(_before_the_last_batch, procs=4, strategy="none"):
        assert norm.startswith("clip_grad_norm_: no sharded parameter has a gradient.")
        assert "only if accelerator.sync_gradients" in norm
        assert value.startswith("clip_grad_value_: ")


def test_plain_gradients_are_clipped_by_torch_itself(monkeypatch):
    made = model()
    made(batch()[0]).sum().backward()
    calls = []
    monkeypatch.setattr(
        nn.utils, "clip_grad_norm_", lambda given, *args, **kwargs: calls.append(len(list(given)))
    )
    Accelerator().clip_grad_norm_(made.parameters(), 1.0)
    assert calls == [14]
