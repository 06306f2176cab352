"""What scripts call on the main process only, and what they call there by mistake."""

from __future__ import annotations

import os
import time
import warnings

import pytest
import torch
from ranks import on_ranks
from small_checkpoint import prepared_training

from accelnb import AccelnbError, RankError
from accelnb.training.configuration import ProjectConfiguration


def _steps(prepared, number):
    accelerator, model, optimizer, loader, *_ = prepared
    done = 0
    while done < number:
        for (x,) in loader:
            with accelerator.accumulate(model):
                accelerator.backward(model(x).square().mean())
                optimizer.step()
                optimizer.zero_grad()
            done += 1
            if done == number:
                break


def _saved_by_main(folder, asynchronous):
    prepared = prepared_training()
    accelerator, model = prepared[:2]
    waited = 0.0
    for step in range(3):
        _steps(prepared, 2)
        if accelerator.is_main_process:
            begun = time.monotonic()
            accelerator.save_state(f"{folder}/{step}", asynchronous=asynchronous)
            accelerator.save_model(model, f"{folder}/weights")
            waited += time.monotonic() - begun
    accelerator.wait_for_everyone()
    accelerator._finish_saves()
    saved = [p.detach().clone() for p in model.parameters()]
    _steps(prepared, 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        accelerator.load_state(f"{folder}/2")
    same = all(map(torch.equal, saved, model.parameters()))
    said = [str(warning.message) for warning in caught if warning.category is UserWarning]
    return same, waited < 20, said


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_main_process_alone_saves_what_it_has_whole(tmp_path, asynchronous):
    zero, one = on_ranks(_saved_by_main, str(tmp_path), asynchronous)
    assert zero[:2] == one[:2] == (True, True)
    lacking = "has no random states for rank 1: there they stay as they are"
    assert zero[2] == [f"{tmp_path}/2 {lacking}"]
    assert one[2] == []
    assert os.listdir(tmp_path / "weights") == ["model.safetensors"]


def _by_main_and_then_by_all(folder):
    project = ProjectConfiguration(folder, automatic_checkpoint_naming=True)
    prepared = prepared_training(project=project)
    accelerator = prepared[0]
    paths = []
    for step in range(3):
        _steps(prepared, 1)
        if accelerator.is_main_process or step == 1:
            paths.append(accelerator.save_state())
    if accelerator.process_index == 1:
        time.sleep(3)  # it comes late, and to no other call than rank 0
    paths.append(accelerator.save_state())
    held = [sorted(os.listdir(path)) for path in paths[-1:]]
    accelerator.load_state()
    return [os.path.basename(path) for path in paths], held, accelerator.save_iteration


def test_saves_of_one_rank_and_of_all_do_not_get_in_each_others_way(tmp_path):
    zero, one = on_ranks(_by_main_and_then_by_all, str(tmp_path))
    assert zero[0] == [f"checkpoint_{number}" for number in range(4)]
    assert one[0] == ["checkpoint_1", "checkpoint_3"]
    assert {"random_states_0.pkl", "random_states_1.pkl"} <= set(zero[1][0])
    assert zero[1:] == one[1:] == (zero[1], 4)


def _late(folder):
    """Rank 1 has had more batches when it comes to the save that rank 0 made alone."""
    prepared = prepared_training()
    accelerator, loader = prepared[0], prepared[3]
    batches = iter(loader)
    next(batches)
    if accelerator.process_index == 1:
        next(batches)
        time.sleep(4)
    torch.manual_seed(accelerator.process_index)
    accelerator.save_state(folder)
    expected = torch.rand(1)
    accelerator.wait_for_everyone()
    accelerator.load_state(folder)
    return torch.equal(torch.rand(1), expected)


def test_a_rank_that_seemed_to_have_gone_by_adds_its_random_states(tmp_path):
    assert on_ranks(_late, str(tmp_path / "checkpoint")) == [True, True]


def _main_only(call, folder):
    prepared = prepared_training()
    accelerator, model = prepared[:2]
    _steps(prepared, 1)
    begun = time.monotonic()
    if accelerator.is_main_process:
        try:
            if call == "load_state":
                accelerator.load_state(folder)
            elif call == "get_state_dict":
                accelerator.get_state_dict(model)
            else:
                getattr(accelerator, call)(*[model][: call == "save_model"], folder)
        except AccelnbError as error:
            raise AccelnbError(f"{error} [{time.monotonic() - begun:.0f} s]") from None
    _steps(prepared, 5)


@pytest.mark.parametrize("call", ["save_state", "save_model", "get_state_dict", "load_state"])
def test_what_takes_all_ranks_is_refused_at_once_on_the_rank_that_called(tmp_path, call):
    strategy = "ddp" if call == "load_state" else "fsdp"
    with pytest.raises(RankError) as raised:
        on_ranks(_main_only, call, str(tmp_path / "new"), strategy=strategy)
    said = str(raised.value)
    assert f"{call}() was called on rank 0, and rank 1 went on to" in said
    assert "call it on every rank, not only if accelerator.is_main_process [" in said
    assert int(said.partition("accelerator.is_main_process [")[2].partition(" ")[0]) < 10
    assert not (tmp_path / "new").exists()
