"""What was prepared before, elsewhere or with other options, and is prepared again."""

from __future__ import annotations

import pickle
import warnings

import pytest
import torch
from ranks import on_ranks

from accelnb import Accelerator, AccelnbError
from accelnb.utils import DistributedDataParallelKwargs


def training():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    data = torch.utils.data.TensorDataset(torch.randn(22, 3), torch.randn(22, 1))
    loader = torch.utils.data.DataLoader(data, batch_size=2)
    return model, optimizer, loader, scheduler


def _train(objects, **options):
    accelerator = Accelerator(gradient_accumulation_steps=2, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch's, that the optimizer does not step
        model, optimizer, loader, scheduler = accelerator.prepare(*objects)
        for x, y in loader:
            with accelerator.accumulate(model):
                accelerator.backward(torch.nn.functional.mse_loss(model(x), y))
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    weights = accelerator.unwrap_model(model).weight.tolist()
    return type(model).__name__, len(loader), scheduler.get_last_lr(), weights


def test_what_the_notebook_prepared_for_itself_trains_on_the_ranks_as_if_it_were_new():
    new = on_ranks(_train, training())
    prepared = on_ranks(_train, Accelerator().prepare(*training()))
    assert prepared == new
    assert prepared[0] == prepared[1]  # gradients were averaged
    assert prepared[0][:2] == ("DistributedDataParallel", 6)


def _use(accelerator):
    return accelerator.is_main_process


def _make_its_own(accelerator):
    accelerator = Accelerator()
    return accelerator.process_index


def test_an_accelerator_of_the_notebook_may_come_to_a_rank_but_not_be_used_there():
    accelerator = Accelerator()
    assert on_ranks(_make_its_own, accelerator) == [0, 1]
    with pytest.raises(AccelnbError, match="make one where it is used"):
        on_ranks(_use, accelerator)


def test_copies_of_states_in_one_process_stay_one():
    accelerator = Accelerator(gradient_accumulation_steps=3)
    copy = pickle.loads(pickle.dumps(accelerator))
    accelerator.sync_gradients = False
    assert copy.gradient_state.sync_gradients is False
    assert copy.state.__dict__ is accelerator.state.__dict__


class _HalfUsed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)

    def forward(self, x):
        return self.used(x)


def _after_an_error_other_options():
    def steps(accelerator, model):
        for _ in range(2):
            accelerator.backward(model(torch.ones(1, 2)).sum())

    first = Accelerator()
    model = first.prepare(_HalfUsed())
    with pytest.raises(RuntimeError, match="find_unused_parameters"):
        steps(first, model)
    asked = DistributedDataParallelKwargs(find_unused_parameters=True)
    second = Accelerator(kwargs_handlers=[asked])
    again = second.prepare(model)
    steps(second, again)
    return second.prepare(again) is again


def test_a_prepared_model_gets_the_options_of_ddp_of_the_new_accelerator():
    assert on_ranks(_after_an_error_other_options) == [True, True]


def _reduce_on_plateau():
    accelerator = Accelerator()
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    rates = []
    for loss in (3.0, 2.0, 2.0, 2.0):
        accelerator.backward(model(torch.ones(1, 1)).sum())
        optimizer.step()
        scheduler.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_a_plateau_is_found_in_as_many_measurements_as_with_one_process():
    assert on_ranks(_reduce_on_plateau, procs=3) == [[1.0, 1.0, 1.0, 0.1]] * 3
