"""Loops as people write them, with sharded models: they train as with DDP, or say why not."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch import nn
from torch.utils.data import DataLoader

from accelnb import Accelerator, AccelnbError
from accelnb.utils import DataLoaderConfiguration


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 1)
        blocks = (nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


class Count(nn.Module):
    """Computes with its inputs before any layer does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - 1000 + 0 * self.layer(torch.zeros(2, 1))


def _begun(**options: Any) -> tuple[Accelerator, nn.Module, torch.Tensor]:
    accelerator = Accelerator(**options)
    torch.manual_seed(0)
    model = Net()
    return accelerator, model, torch.randn(2, 4, generator=torch.Generator().manual_seed(1))


def measured_before_the_step() -> list[float]:
    """Compute an accuracy, with gradients enabled, between the backward pass and the step."""
    accelerator, model, x = _begun()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
    found = []
    for _ in range(4):
        loss = model(x).pow(2).mean()
        accelerator.backward(loss)
        model(x)
        found.append(accelerator.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def with_an_optimizer_that_is_not_prepared() -> list[float]:
    accelerator, model, x = _begun()
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, eps=1e-4)
    optimizer.zero_grad()
    model = accelerator.prepare(model)
    found = []
    for _ in range(4):
        loss = model(x).pow(2).mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def with_a_warm_optimizer() -> list[float]:
    accelerator, model, x = _begun()
    optimizer = torch.optim.Adagrad(model.parameters(), 0.1)
    model(x).pow(2).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    model, optimizer = accelerator.prepare(model, optimizer)
    loss = model(x).pow(2).mean()
    accelerator.backward(loss)
    optimizer.step()
    return [loss.item(), model(x).pow(2).mean().item()]


def trained_after_evaluation() -> list[float]:
    accelerator, model, x = _begun()
    model = accelerator.prepare_model(model, evaluation_mode=True)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
    accelerator.backward(model(x + accelerator.process_index).pow(2).mean())
    optimizer.step()
    return [accelerator.reduce(model(x).mean().detach()).item(), model(x).mean().item()]


LOOPS = (
    measured_before_the_step,
    with_an_optimizer_that_is_not_prepared,
    with_a_warm_optimizer,
    trained_after_evaluation,
)


def every_loop() -> list[list[float]]:
    return [loop() for loop in LOOPS]


def test_loops_train_as_with_ddp():
    copies = on_ranks(every_loop, strategy="ddp")[0]
    sharded = on_ranks(every_loop, strategy="fsdp")[0]
    for loop, expected, found in zip(LOOPS, copies, sharded, strict=True):
        assert found == pytest.approx(expected, abs=1e-6), loop.__name__


def _inputs() -> list[float]:
    model = Accelerator(mixed_precision="bf16").prepare(Count())
    return model(torch.tensor([[1001.0], [1003.0]])).flatten().tolist()


def test_what_a_model_is_given_keeps_its_precision():
    assert on_ranks(_inputs, strategy="fsdp")[0] == [1, 3]


def _refusals(folder: str) -> list[str]:
    said = []
    accelerator, model, x = _begun()
    sharded = accelerator.prepare(model)
    with torch.inference_mode():
        said.append(_said(lambda: sharded(x)))
    said.append(_said(lambda: _penalty(sharded, x)))
    _said(lambda: accelerator.backward(sharded(x).sum()))  # after a pass that was cut short
    accelerator.backward(sharded(x).sum())  # it trains on
    said.append(_said(lambda: accelerator.save(sharded.state_dict(), f"{folder}/weights.bin")))
    return [text for text in said if text or accelerator.is_main_process]


def _penalty(model: nn.Module, x: torch.Tensor) -> None:
    x = x.clone().requires_grad_()
    torch.autograd.grad(model(x).sum(), x, create_graph=True)


def _said(what: Any) -> str:
    try:
        what()
    except AccelnbError as error:
        return str(error)
    return ""


def test_what_would_go_wrong_later_is_refused_in_one_line(tmp_path):
    said = on_ranks(_refusals, str(tmp_path), strategy="fsdp")[0]
    assert "torch.no_grad()" in said[0]
    assert said[1].startswith("create_graph=True: FSDP has no gradients of gradients")
    assert "get_state_dict(model)" in said[2]


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Any:
        return iter(torch.ones(5, 4))


def _uneven() -> dict[str, Any]:
    uneven = DataLoaderConfiguration(even_batches=False, dispatch_batches=False)
    accelerator, model, _ = _begun(dataloader_config=uneven)
    model = accelerator.prepare(model)

    def prepared(data: Any, **options: Any) -> int:
        loader = accelerator.prepare(DataLoader(data, batch_size=2, **options))
        return sum(model(batch).shape[0] for batch in loader)

    said = {n: _said(lambda n=n: prepared(torch.ones(n, 4))) for n in (5, 6, 7, 8)}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        accelerator.prepare(DataLoader(Stream(), batch_size=2))
    return {
        "said": said,
        "fewer in the last": prepared(torch.ones(7, 4)),
        "dropped": prepared(torch.ones(6, 4), drop_last=True),
        "warned": [str(each.message) for each in warned],
    }


def test_a_loader_of_which_a_rank_gets_fewer_batches_is_refused_on_all():
    for rank, found in enumerate(on_ranks(_uneven, strategy="fsdp")):
        refused = [n for n, text in found["said"].items() if text]
        assert refused == [5, 6]
        assert found["said"][6].startswith("even_batches=False: ranks get 2 and 1 batches of this")
        assert found["fewer in the last"] == [4, 3][rank]
        assert found["dropped"] == 2
        assert ["leaves the others waiting" in text for text in found["warned"]] == [True]
