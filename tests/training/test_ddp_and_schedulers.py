"""DDP and its options, and schedulers that follow the optimizer."""

from __future__ import annotations

import pytest
import torch
from ranks import on_ranks

from accelnb import Accelerator
from accelnb.utils import (
    DistributedDataParallelKwargs,
)


def loader(size: int, batch_size: int = 2, **options):
    data = torch.utils.data.TensorDataset(torch.arange(float(size)).unsqueeze(1))
    return torch.utils.data.DataLoader(data, batch_size, **options)


# ---- DDP ----


def _with_hook(hook: str, wrapper: str) -> list[float]:
    options = {"start_powerSGD_iter": 2, "matrix_approximation_rank": 1}
    handler = DistributedDataParallelKwargs(
        comm_hook=hook, comm_wrapper=wrapper, comm_state_option=options if "sgd" in hook else {}
    )
    accelerator = Accelerator(kwargs_handlers=[handler])
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 8)
    x = torch.randn(64, 8)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.5))
    losses = []
    for _ in range(10):
        loss = torch.nn.functional.mse_loss(model(x), x)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_gradients_can_be_compressed_on_their_way():
    exact = on_ranks(_with_hook, "no", "no")[0]
    for hook, wrapper, tolerance in (
        ("fp16", "no", 1e-3),
        ("bf16", "no", 1e-2),
        ("power_sgd", "no", 3.0),  # of rank 1: another way to the same end
        ("power_sgd", "fp16", 3.0),
        ("power_sgd", "bf16", 3.0),
    ):
        compressed = on_ranks(_with_hook, hook, wrapper)
        assert compressed[0] == compressed[1], hook
        assert compressed[0] == pytest.approx(exact, rel=tolerance), hook
        assert compressed[0][-1] < 0.5 * compressed[0][0], hook
        assert compressed[0] != exact, hook


def _joined(as_sampler: bool) -> tuple[int, list[float]]:
    accelerator = Accelerator()
    model = torch.nn.Linear(1, 1)
    data = loader(6)
    if as_sampler:
        data = torch.utils.data.DataLoader(data.dataset, sampler=data.batch_sampler)
    model, optimizer, data = accelerator.prepare(
        model, torch.optim.SGD(model.parameters(), lr=0.01), data
    )
    average = torch.nn.Linear(1, 1).requires_grad_(False)
    with accelerator.join_uneven_inputs([average]):  # it has no gradients to wait for
        pass
    batches = 0
    with accelerator.join_uneven_inputs([model, average], even_batches=False):
        for (x,) in data:
            accelerator.backward(model(x).sum())
            optimizer.step()
            optimizer.zero_grad()
            batches += 1
    assert data.divider.even_batches
    return batches, model.module.weight.flatten().tolist()


@pytest.mark.parametrize("as_sampler", [False, True])
def test_ranks_with_fewer_batches_wait_for_the_others(as_sampler):
    (first, weight), (second, same) = on_ranks(_joined, as_sampler)
    assert (first, second) == (2, 1)
    assert weight == same


# ---- schedulers ----


def _rates(**options) -> list[float]:
    accelerator = Accelerator(gradient_accumulation_steps=2, **options)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / 10)
    optimizer, schedule = accelerator.prepare(optimizer, schedule)
    rates = []
    for _ in range(4):
        with accelerator.accumulate():
            parameter.grad = torch.ones(1)
            optimizer.step()
            schedule.step()
        rates.append(round(schedule.get_last_lr()[0], 6))
    return rates


def test_a_scheduler_steps_with_the_optimizer_as_often_as_there_are_processes_or_once():
    assert on_ranks(_rates)[1] == [1.0, 0.8, 0.8, 0.6]
    assert _rates() == [1.0, 0.9, 0.9, 0.8]


def _rates_by_option() -> list[list[float]]:
    return [
        _rates(scheduler_steps_per_update=1),
        _rates(split_batches=True),
        _rates(step_scheduler_with_optimizer=False),
    ]


def test_a_scheduler_steps_as_it_is_asked_to():
    once, split, free = on_ranks(_rates_by_option)[0]
    assert once == split == [1.0, 0.9, 0.9, 0.8]
    assert free == [0.9, 0.8, 0.7, 0.6]


def test_one_cycle_ends_where_it_ends_though_several_steps_are_taken_at_once():
    accelerator = Accelerator(scheduler_steps_per_update=3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=4)
    optimizer, schedule = accelerator.prepare(optimizer, schedule)
    for _ in range(3):
        optimizer.step()
        schedule.step()
    assert schedule.scheduler.last_epoch == 4
