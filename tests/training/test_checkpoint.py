"""A training is saved and goes on as if it had never stopped, whatever happens in between."""

from __future__ import annotations

import os
import random
import warnings
from pathlib import Path

import pytest
import torch
from ranks import on_ranks
from small_checkpoint import Counter, prepared_training

from accelnb import Accelerator, AccelnbError
from accelnb.training.configuration import DataLoaderConfiguration, ProjectConfiguration
from accelnb.training.gradients import GradientState
from accelnb.training.state import AcceleratorState


def _train(prepared, first, last, save_at=None, folder=None, **how):
    """Train on batches `first` to `last`; return the losses with what else was drawn."""
    accelerator, model, optimizer, loader, scheduler, counter = prepared
    losses = []
    batch = first
    while batch < last:
        for (x,) in loader:
            with accelerator.accumulate(model):
                loss = (model(x) - random.random()).square().mean()
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            counter.seen += 1
            losses.append((loss.item(), torch.rand(1).item(), counter.seen))
            batch += 1
            if batch == save_at:
                saved = accelerator.save_state(folder, **how)
                saved if isinstance(saved, str) else saved.wait(30)
            if batch == last:
                break
    weights = [p.detach().clone() for p in accelerator.unwrap_model(model).parameters()]
    return losses, [w.tolist() for w in weights], scheduler.get_last_lr()


def _seeded(seed, **options):
    random.seed(seed)
    torch.manual_seed(seed)
    stateful = DataLoaderConfiguration(use_stateful_dataloader=True)
    options = {"gradient_accumulation_steps": 2, "dataloader_config": stateful} | options
    return prepared_training(**options)


def _whole_and_resumed(folder, save_at, **options):
    how = {"asynchronous": True} if options.pop("asynchronous", False) else {}
    whole = _train(_seeded(1, **options), 0, 14, save_at, folder, **how)
    AcceleratorState._reset_state()
    GradientState._reset_state()
    again = _seeded(2, **options)
    again[0].load_state(folder)
    losses, weights, rate = _train(again, save_at, 14)
    return (whole[0][save_at:], *whole[1:]) == (losses, weights, rate)


@pytest.mark.parametrize("procs", [1, 2])
@pytest.mark.parametrize("save_at", [6, 3])  # after a step, and within an accumulation
def test_a_resumed_training_equals_one_that_never_stopped_to_the_bit(tmp_path, procs, save_at):
    folder = str(tmp_path / "checkpoint")
    assert on_ranks(_whole_and_resumed, folder, save_at, procs=procs) == [True] * procs
    assert os.listdir(tmp_path) == ["checkpoint"]


def test_a_checkpoint_saved_in_the_background_is_of_the_moment_it_was_asked_for(tmp_path):
    def saved_and_changed(folder):
        prepared = _seeded(1)
        accelerator, model, *_ = prepared
        expected = [p.detach().clone() for p in model.parameters()]
        pending = accelerator.save_state(folder, asynchronous=True)
        _train(prepared, 0, 4)
        pending.wait(30)
        assert pending.done
        accelerator.load_state(folder)
        return all(torch.equal(a, b) for a, b in zip(expected, model.parameters(), strict=True))

    assert on_ranks(saved_and_changed, str(tmp_path / "checkpoint")) == [True, True]
    assert os.listdir(tmp_path) == ["checkpoint"]
    folder = str(tmp_path / "other")
    assert _whole_and_resumed(folder, 3, asynchronous=True)


def test_fp16_goes_on_with_its_scale(tmp_path):
    first = prepared_training(mixed_precision="fp16")
    _train(first, 0, 3)
    first[0].scaler.update(128.0)
    first[0].save_state(tmp_path / "checkpoint")
    again = prepared_training(mixed_precision="fp16")
    again[0].load_state(tmp_path / "checkpoint")
    assert again[0].scaler.get_scale() == 128.0
    assert again[0].scaler.state_dict() == first[0].scaler.state_dict()


# ---- what does not fit ----


def _state_of(prepared):
    _, model, optimizer, loader, scheduler, counter = prepared
    parts = (model, optimizer, scheduler, counter, loader)
    return repr([part.state_dict() for part in parts]) + str(torch.get_rng_state().sum())


def _refused(folder, change, prepare):
    prepared = prepare()
    change(prepared)
    before = _state_of(prepared)
    try:
        prepared[0].load_state(folder)
    except AccelnbError as error:
        return str(error), _state_of(prepared) == before
    return "loaded", False


def _saved(path: Path, **options) -> str:
    prepared = _seeded(5, **options)
    _train(prepared, 0, 3)
    return str(prepared[0].save_state(path / "checkpoint"))


def _nothing(_):
    return None


def test_another_model_changes_nothing(tmp_path):
    message, unchanged = _refused(_saved(tmp_path), _nothing, lambda: prepared_training(width=8))
    assert message.endswith(
        "model.safetensors is not of this Sequential: 0.weight is [4, 2] there and [8, 2] in the "
        "model, 0.bias is [4] there and [8] in the model, 2.weight is [1, 4] there and [1, 8] in "
        "the model"
    )
    assert unchanged


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "random_states_0.pkl"])
def test_a_truncated_or_missing_file_changes_nothing(tmp_path, name):
    folder = _saved(tmp_path)
    with open(Path(folder, name), "r+b") as file:
        file.truncate(100)
    message, unchanged = _refused(folder, _nothing, prepared_training)
    assert f"{name} is damaged: it has 100 bytes instead of " in message
    assert unchanged
    Path(folder, name).unlink()
    message, unchanged = _refused(folder, _nothing, prepared_training)
    assert f"is incomplete: {name} is missing" in message
    assert unchanged


def test_a_model_can_be_loaded_without_what_trained_it(tmp_path):
    folder = _saved(tmp_path)
    accelerator = Accelerator()
    model = accelerator.prepare(prepared_training()[1])
    accelerator.register_for_checkpointing(Counter())
    accelerator.load_state(folder)
    whole = prepared_training()
    whole[0].load_state(folder)
    assert torch.equal(model[0].weight, whole[1][0].weight)


def test_a_truncated_file_is_found_also_without_the_list_of_files(tmp_path):
    folder = _saved(tmp_path)
    Path(folder, "checkpoint.json").unlink()  # as in a checkpoint of Accelerate
    for name in ("optimizer.bin", "model.safetensors"):
        whole = Path(folder, name).read_bytes()
        Path(folder, name).write_bytes(whole[: len(whole) // 2])
        message, unchanged = _refused(folder, _nothing, prepared_training)
        assert f"{name} cannot be read, it seems damaged" in message
        assert unchanged
        Path(folder, name).write_bytes(whole)
    assert _refused(folder, _nothing, prepared_training)[0] == "loaded"


def _more_objects(prepared):
    prepared[0].register_for_checkpointing(Counter())


def _more_optimizers(prepared):
    prepared[0].prepare(torch.optim.SGD(torch.nn.Linear(1, 1).parameters()))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_more_objects, "has 1 objects registered for checkpointing, and 2 are here"),
        (_more_optimizers, "has 1 optimizers, and 2 are here"),
    ],
)
def test_another_number_of_objects_changes_nothing(tmp_path, change, says):
    message, unchanged = _refused(_saved(tmp_path), change, prepared_training)
    assert says in message
    assert unchanged


def test_an_object_of_the_user_that_refuses_its_state_leaves_the_rest_as_it_was(tmp_path):
    folder = _saved(tmp_path)
    prepared = prepared_training()
    before = prepared[1].state_dict()["0.weight"].clone()
    original = prepared[4].load_state_dict

    def refuse_once(state):
        prepared[4].load_state_dict = original
        raise ValueError("not today")

    prepared[4].load_state_dict = refuse_once
    with pytest.raises(ValueError, match="not today"):
        prepared[0].load_state(folder)
    assert prepared[5].seen == 0  # was loaded before, and put back
    assert torch.equal(prepared[1].state_dict()["0.weight"], before)


def _one_rank_sees_damage(folder):
    prepared = prepared_training()
    if prepared[0].process_index == 1:  # as where its machine has no part of the checkpoint
        folder = folder + "-elsewhere"
    before = _state_of(prepared)
    try:
        prepared[0].load_state(folder)
    except AccelnbError as error:
        return str(error).replace(folder, "F"), _state_of(prepared) == before
    return "loaded", False


def test_all_ranks_refuse_what_one_of_them_cannot_load(tmp_path):
    folder = _saved(tmp_path)
    (zero, kept_zero), (one, kept_one) = on_ranks(_one_rank_sees_damage, folder)
    assert one == "input_dir=F: there is no such folder"
    assert zero.startswith("rank 1: input_dir=")
    assert kept_zero
    assert kept_one


def test_an_object_that_is_not_plain_is_named_when_saved_and_when_loaded(tmp_path):
    class Odd(Counter):
        def state_dict(self):
            return {"seen": Path("here")}

    accelerator = Accelerator()
    accelerator.register_for_checkpointing(Odd())
    with pytest.warns(UserWarning, match="custom_checkpoint_0 holds a pathlib"):
        folder = accelerator.save_state(tmp_path / "checkpoint")
    with pytest.raises(AccelnbError, match=r"not plain data: .*add_safe_globals\(\[\w*Path\]\)"):
        accelerator.load_state(folder)
    accelerator.load_state(folder, load_kwargs={"weights_only": False})


# ---- other numbers of ranks ----


def _load_and_train(folder):
    prepared = _seeded(2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        prepared[0].load_state(folder)
    weights = prepared[0].get_state_dict(prepared[1])["0.weight"].tolist()
    _train(prepared, 4, 8)
    return weights, [str(w.message) for w in said if "random states" in str(w.message)]


def _train_and_save(folder):
    prepared = _seeded(1)
    _train(prepared, 0, 4, 4, folder)
    return prepared[0].get_state_dict(prepared[1])["0.weight"].tolist()


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_another_number_of_ranks_goes_on(tmp_path, before, after):
    folder = str(tmp_path / "checkpoint")
    saved = on_ranks(_train_and_save, folder, procs=before)
    loaded = on_ranks(_load_and_train, folder, procs=after)
    assert [weights for weights, _ in loaded] == [saved[0]] * after
    warned = [said for _, said in loaded]
    assert warned[0] == (
        [f"{folder} has no random states for rank 1: there they stay as they are"]
        if after > before
        else []
    )
    assert not any(warned[1:])


def _on_two_machines(home):
    from accelnb import PartialState

    state = PartialState()
    state.local_process_index = 0
    folder = f"{home}/{state.process_index}/checkpoint"
    project = ProjectConfiguration(save_on_each_node=True)
    prepared = prepared_training(project=project)
    prepared[0].save_state(folder)
    prepared[0].load_state(folder)
    return sorted(os.listdir(folder))


def test_machines_without_a_common_disk_can_each_have_the_checkpoint(tmp_path):
    zero, one = on_ranks(_on_two_machines, str(tmp_path))
    assert "random_states_0.pkl" in zero
    assert "random_states_1.pkl" in one
    assert {"model.safetensors", "optimizer.bin", "checkpoint.json"} <= {*zero} & {*one}


# ---- names ----


def _numbered(path, **options):
    project = ProjectConfiguration(
        project_dir=str(path), automatic_checkpoint_naming=True, **options
    )
    return prepared_training(project=project)


def _names(path):
    return sorted(os.listdir(path / "checkpoints"))


def test_numbered_checkpoints_are_limited_and_go_on_after_a_resume(tmp_path):
    prepared = _numbered(tmp_path, total_limit=2)
    for seen in range(12):
        prepared[5].seen = seen
        prepared[0].save_state()
    assert _names(tmp_path) == ["checkpoint_10", "checkpoint_11"]

    again = _numbered(tmp_path, total_limit=2)
    with pytest.raises(AccelnbError, match="total_limit=0: must be at least 1"):
        _numbered(tmp_path, total_limit=0)[0].save_state()
    again[0].load_state()
    assert again[5].seen == 11
    assert again[0].save_iteration == 12
    again[0].save_state()
    assert _names(tmp_path) == ["checkpoint_11", "checkpoint_12"]


def test_a_new_training_does_not_overwrite_numbered_checkpoints(tmp_path):
    _numbered(tmp_path)[0].save_state()
    with pytest.raises(AccelnbError, match=r"checkpoint_0 is there already: .*iteration = 1"):
        _numbered(tmp_path)[0].save_state()


def test_the_latest_complete_checkpoint_is_loaded(tmp_path):
    prepared = _numbered(tmp_path)
    for seen in (1, 2):
        prepared[5].seen = seen
        prepared[0].save_state()
    (tmp_path / "checkpoints/checkpoint_1/optimizer.bin").unlink()
    with pytest.warns(UserWarning, match="optimizer.bin is missing.*the one before is used"):
        prepared[0].load_state()
    assert prepared[5].seen == 1
    prepared[0].save_state()
    assert prepared[0].save_iteration == 3


def test_a_folder_given_twice_holds_the_newer_and_what_others_put_there(tmp_path):
    prepared = prepared_training()
    folder = tmp_path / "checkpoint"
    prepared[0].save_state(folder)
    (folder / "notes").mkdir()
    (folder / "notes/today.txt").write_text("kept")
    prepared[5].seen = 7
    prepared[0].save_state(folder)
    prepared[5].seen = 0
    prepared[0].load_state(folder)
    assert prepared[5].seen == 7
    assert (folder / "notes/today.txt").read_text() == "kept"
    assert os.listdir(tmp_path) == ["checkpoint"]


def test_a_folder_that_cannot_be_replaced_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    accelerator = Accelerator()
    with pytest.raises(AccelnbError, match=r"output_dir=\.: .*give a folder in it"):
        accelerator.save_state(".")
    with pytest.raises(AccelnbError, match="output_dir=file: is a file"):
        accelerator.save_state("file")
    with pytest.raises(AccelnbError, match="save_state\\(\\) needs output_dir"):
        accelerator.save_state()
    assert os.listdir(tmp_path) == ["file"]


# ---- hooks ----


def test_hooks_save_and_load_models_in_their_own_way_until_removed(tmp_path):
    accelerator, model, *_ = prepared_training()

    def save(models, weights, folder):
        torch.save(weights.pop(), Path(folder, "my.pt"))

    def load(models, folder):
        models.pop().load_state_dict(torch.load(Path(folder, "my.pt")))

    saves = accelerator.register_save_state_pre_hook(save)
    loads = accelerator.register_load_state_pre_hook(load)
    before = model.state_dict()["0.weight"].clone()
    folder = accelerator.save_state(tmp_path / "checkpoint")
    assert not Path(folder, "model.safetensors").exists()
    torch.nn.init.zeros_(model[0].weight)
    accelerator.load_state(folder)
    assert torch.equal(model.state_dict()["0.weight"], before)

    saves.remove()
    loads.remove()
    folder = accelerator.save_state(tmp_path / "checkpoint")
    assert Path(folder, "model.safetensors").exists()
