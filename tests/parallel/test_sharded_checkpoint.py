"""Checkpoints of models that are divided over ranks, loaded into any other division of them."""

from __future__ import annotations

import os
import sys

import cloudpickle
import pytest
import sharded_layouts
import torch
from ranks import on_ranks
from sharded_layouts import net, prepared, train

from accelnb.training.checkpoint import load_checkpoint_in_model
from accelnb.training.checkpoint.merging import merge_weights

# The ranks cannot import it: what it defines travels by value.
cloudpickle.register_pickle_by_value(sys.modules[sharded_layouts.__name__])

ALL = ["single1", "ddp2", "fsdp2", "tp2", "cp2", "by_hand4", "hsdp4", "fsdp_tp4"]


def _of(ranks):
    return [name for name in ALL if name.endswith(str(ranks))]


def _saved(folder, ranks):
    """Save after three batches in each layout of so many ranks; return the losses of three more."""
    losses = {}
    for name in _of(ranks):
        training = prepared(name[:-1])
        train(training, 0, 3)
        training[0].save_state(f"{folder}/{name}")
        losses[name] = train(training, 3, 6)
    return losses


def _resumed(folder, ranks):
    """Return the losses after loading what each layout saved into each of so many ranks."""
    losses = {}
    for name in _of(ranks):
        for saved in ALL:
            training = prepared(name[:-1])
            with torch.no_grad():
                for parameter in training[1].parameters():
                    parameter.add_(0.3)
            training[0].load_state(f"{folder}/{saved}")
            losses[saved, name] = train(training, 3, 6)
    return losses


@pytest.mark.filterwarnings("ignore:.*has no random states for rank")
def test_what_any_division_saved_goes_on_in_any_other(tmp_path):
    folder = str(tmp_path)
    going_on = _saved(folder, 1) | on_ranks(_saved, folder, 2)[0]
    saved, resumed = on_ranks(lambda: (_saved(folder, 4), _resumed(folder, 4)), procs=4)[0]
    going_on |= saved
    resumed |= on_ranks(_resumed, folder, 2)[0] | _resumed(folder, 1)
    assert len(resumed) == len(ALL) ** 2
    for (source, target), losses in resumed.items():
        assert losses == pytest.approx(going_on[source], abs=1e-6), (source, target)
        if source == target:
            assert losses == going_on[source], source


# ---- one layout, in depth ----


def _in_the_background(folder):
    training = prepared("fsdp")
    train(training, 0, 3)
    pending = training[0].save_state(folder, asynchronous=True)
    going_on = train(training, 3, 6)
    pending.wait(30)
    training[0].load_state(folder)
    return train(training, 3, 6) == going_on


def _within_an_accumulation(folder, layout, synchronized):
    """Save after two of three batches; gradients are divided, or whole and of this rank alone."""
    training = prepared(layout, gradient_accumulation_steps=3)
    if not synchronized:
        training[1].set_requires_gradient_sync(False)
    train(training, 0, 2)
    training[0].save_state(folder)
    again = prepared(layout, gradient_accumulation_steps=3)
    losses = []
    for index, (accelerator, model, *_) in enumerate((training, again)):
        if index:
            accelerator.load_state(folder)
        if not synchronized:
            model.set_requires_gradient_sync(True)
        losses.append(train((training, again)[index], 2, 5))
    return losses[0] == losses[1]


class _Average:
    """An object of the user that holds divided tensors."""

    def __init__(self, model):
        self.held = {name: p.detach().clone() for name, p in model.named_parameters()}

    def state_dict(self):
        return {"held": self.held, "decay": 0.9}

    def load_state_dict(self, state):
        self.held = state["held"]


def _what_users_hold(folder):
    training = prepared("fsdp")
    accelerator, model, *_ = training
    average = _Average(model)
    accelerator.register_for_checkpointing(average)
    train(training, 0, 2)
    with torch.no_grad():
        model(torch.zeros(1, 2, dtype=torch.long))  # the outermost unit is whole after it
    accelerator.save_state(folder)
    before = {name: value.full_tensor() for name, value in average.held.items()}
    for value in average.held.values():
        value.zero_()
    accelerator.load_state(folder)
    return all(torch.equal(average.held[name].full_tensor(), before[name]) for name in before)


def _weights_alone(folder):
    accelerator, model, *_ = prepared("fsdp")
    accelerator.save_state(f"{folder}/checkpoint")
    accelerator.save_model(model, f"{folder}/weights", max_shard_size=500)
    whole = accelerator.get_state_dict(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    load_checkpoint_in_model(model, f"{folder}/weights", strict=True)
    again = accelerator.get_state_dict(model)
    tied = model.head.weight is model.embedding.weight
    return tied, {k: v.tolist() for k, v in whole.items()}, again.keys() == whole.keys()


def test_saving_in_the_background_within_an_accumulation_and_with_what_users_hold(tmp_path):
    def all_of_it(folder):
        return [
            _in_the_background(f"{folder}/1"),
            _within_an_accumulation(f"{folder}/2", "fsdp", True),
            _within_an_accumulation(f"{folder}/3", "fsdp", False),
            _within_an_accumulation(f"{folder}/4", "tp", True),
            _what_users_hold(f"{folder}/5"),
        ]

    assert on_ranks(all_of_it, str(tmp_path)) == [[True] * 5] * 2
    assert sorted(os.listdir(tmp_path)) == list("12345")


def test_weights_alone_are_written_file_by_file_and_merged_from_a_checkpoint(tmp_path):
    (tied, whole, kept), (_, nothing, _) = on_ranks(_weights_alone, str(tmp_path))
    assert tied
    assert kept
    assert nothing == {}  # the whole weights are on rank 0 alone
    assert len(list((tmp_path / "weights").glob("*.safetensors"))) > 2
    model = net()
    load_checkpoint_in_model(model, tmp_path / "weights", strict=True)
    assert {k: v.tolist() for k, v in model.state_dict().items()} == whole
    assert merge_weights(tmp_path / "checkpoint", tmp_path / "merged", max_shard_size=500) == 17
    merged = net()
    load_checkpoint_in_model(merged, tmp_path / "merged", strict=True)
    assert {k: v.tolist() for k, v in merged.state_dict().items()} == whole
