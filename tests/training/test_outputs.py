"""What prepared models return in mixed precision: fp32, or what they computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch.nn.functional import cross_entropy

from accelnb import Accelerator, AccelnbError
from accelnb.utils import AutocastKwargs

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def leaving_outputs(precision: str) -> Accelerator:
    handlers = [AutocastKwargs(outputs="compute")]
    return Accelerator(mixed_precision=precision, kwargs_handlers=handlers)


class Outputs(dict):
    """Like those of transformers."""

    def __getattr__(self, name):
        return self[name]


class Nested(torch.nn.Linear):
    def forward(self, x):
        scores = super().forward(x)
        return Outputs(scores=scores, parts=[(scores, "text")], exact=scores.float())


@pytest.mark.parametrize("precision", list(DTYPES))
def test_outputs_are_fp32_unless_they_are_left_as_they_were_computed(precision):
    dtype, x = DTYPES[precision], torch.ones(1, 2)
    usual = Accelerator(mixed_precision=precision).prepare(Nested(2, 3))(x)
    assert {usual.scores.dtype, usual.parts[0][0].dtype} == {torch.float32}
    left = leaving_outputs(precision).prepare(Nested(2, 3))(x)
    assert isinstance(left, Outputs)
    assert {left.scores.dtype, left.parts[0][0].dtype} == {dtype}
    assert left.exact.dtype == torch.float32


def test_the_model_is_unwrapped_and_prepared_anew_as_with_fp32_outputs():
    accelerator = leaving_outputs("bf16")
    model, x = accelerator.prepare(torch.nn.Linear(2, 2)), torch.ones(1, 2)
    assert accelerator.unwrap_model(model)(x).dtype == torch.bfloat16
    model = Accelerator(mixed_precision="bf16").prepare(model)
    assert model(x).dtype == torch.float32
    model = leaving_outputs("bf16").prepare(model)
    assert model(x).dtype == torch.bfloat16
    assert accelerator.unwrap_model(model, keep_fp32_wrapper=False)(x).dtype == torch.float32
    with accelerator.autocast():  # a block of one's own is not concerned
        assert (x @ x.T).dtype == torch.bfloat16


def test_the_launch_says_it_unless_the_accelerator_does(monkeypatch):
    def dtype_of(*handlers: AutocastKwargs) -> torch.dtype:
        accelerator = Accelerator(mixed_precision="bf16", kwargs_handlers=list(handlers))
        return accelerator.prepare(torch.nn.Linear(2, 2))(torch.ones(1, 2)).dtype

    monkeypatch.setenv("ACCELNB_OUTPUTS", "compute")
    assert dtype_of() == torch.bfloat16
    assert dtype_of(AutocastKwargs(cache_enabled=False)) == torch.bfloat16
    assert dtype_of(AutocastKwargs(outputs="fp32")) == torch.float32
    assert AutocastKwargs().to_kwargs() == {}
    monkeypatch.setenv("ACCELNB_OUTPUTS", "half")
    with pytest.raises(AccelnbError, match=r"^ACCELNB_OUTPUTS=half: choose one of fp32, compute$"):
        Accelerator()
    with pytest.raises(AccelnbError, match=r"^outputs=half: choose one of fp32, compute$"):
        AutocastKwargs(outputs="half")


def _losses(by_hand: bool, precision: str) -> list[float]:
    """Train with outputs left in bf16, the loss outside of autocast."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    torch.manual_seed(0)
    model: Any = torch.nn.Sequential(
        torch.nn.Linear(8, 32), torch.nn.GELU(), torch.nn.Linear(32, 5)
    )
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=0.01)
    rank = dist.get_rank() if dist.is_initialized() else 0
    accelerator: Any = None
    if by_hand and dist.is_initialized():
        model = DistributedDataParallel(model)
    elif not by_hand:
        accelerator = Accelerator(mixed_precision=precision)
        model, optimizer = accelerator.prepare(model, optimizer)
    losses = []
    data = torch.Generator().manual_seed(rank)
    for _ in range(8):
        x, y = torch.randn(16, 8, generator=data), torch.randint(5, (16,), generator=data)
        with torch.autocast("cpu", torch.bfloat16, enabled=by_hand):
            scores = model(x)
        assert scores.dtype == torch.bfloat16
        loss = cross_entropy(scores, y)
        losses.append(loss.item())
        loss.backward() if by_hand else accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    return losses


def _by_hand_and_not() -> tuple[list[float], list[float]]:
    return _losses(True, "bf16"), _losses(False, "bf16")


@pytest.mark.parametrize("procs", [1, 2])
def test_losses_equal_the_loop_by_hand_to_the_bit(procs):
    found = on_ranks(_by_hand_and_not, procs=procs, precision="bf16", outputs="compute")
    assert len(found) == procs
    for by_hand, ours in found:
        assert ours == by_hand
