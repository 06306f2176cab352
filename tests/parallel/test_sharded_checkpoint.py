"""Checkpoints of models that are divided over ranks, loaded into any other division of them."""

from __future__ import annotations

import os
import sys

import cloudpickle
import pytest
import sharded_layouts
import torch
from ranks import on_ranks
from sharded_layouts import following, net, prepared, train

from accelnb.training.checkpoint.merging import merge_weights
from accelnb.utils import load_checkpoint_in_model

# The ranks cannot import it: what it defines travels by value.
cloudpickle.register_pickle_by_value(sys.modules[sharded_layouts.__name__])

ALL = ["single1", "ddp2", "fsdp2", "tp2", "cp2", "by_hand4", "hsdp4", "fsdp_tp4"]


def _of(ranks):
    return [name for name in ALL if name.endswith(str(ranks))]


def _saved(folder, ranks):
    """Save after three batches in each layout of so many ranks.

    Return the losses of three more, this rank's share of the data, and what it draws next.
    """
    kept = {}
    for name in _of(ranks):
        training = prepared(name[:-1])
        share = training[0].mesh.data_share
        torch.manual_seed(share)
        batches = iter(training[-1])
        next(batches)
        next(batches)
        train(training, 0, 3)
        training[0].save_state(f"{folder}/{name}")
        drawn = following(training, batches)
        kept[name] = train(training, 3, 6), share, drawn
    return kept


def _resumed(folder, ranks):
    """Return the same after loading what each layout saved into each of so many ranks."""
    kept = {}
    for name in _of(ranks):
        for saved in ALL:
            training = prepared(name[:-1])
            with torch.no_grad():
                for parameter in training[1].parameters():
                    parameter.add_(0.3)
            training[0].load_state(f"{folder}/{saved}")
            drawn = following(training)
            kept[saved, name] = train(training, 3, 6), training[0].mesh.data_share, drawn
    return kept


@pytest.mark.filterwarnings("ignore:.*has no random states for rank")
def test_what_any_division_saved_goes_on_in_any_other(tmp_path):
    folder = str(tmp_path)
    of_two = on_ranks(_saved, folder, 2, timeout=150)
    one = [_saved(folder, 1)]
    of_four = on_ranks(lambda: (_saved(folder, 4), _resumed(folder, 4)), procs=4, timeout=200)
    resumed = [*on_ranks(_resumed, folder, 2, timeout=150), *(found for _, found in of_four)]
    resumed.append(_resumed(folder, 1))
    # Of every layout, what each share of the data was to go on with.
    going_on = {}
    for rank in (*of_two, *one, *(found for found, _ in of_four)):
        for name, (losses, share, drawn) in rank.items():
            going_on.setdefault(name, (losses, {}))[1].setdefault(share, drawn)
    assert len({pair for rank in resumed for pair in rank}) == len(ALL) ** 2
    shares = {
        pair: max(rank[pair][1] for rank in resumed if pair in rank)
        for rank in resumed
        for pair in rank
    }
    for rank in resumed:
        for (saved, now), (losses, share, (number, samples)) in rank.items():
            losses_then, drawn_then = going_on[saved]
            assert losses == pytest.approx(losses_then, abs=1e-6), (saved, now)
            if saved == now:
                assert losses == losses_then, now
            if share in drawn_then:
                assert number == drawn_then[share][0], (saved, now)
            if shares[saved, now] + 1 == len(drawn_then):
                assert samples == drawn_then[share][1], (saved, now)


# ---- one layout, in depth ----


def _in_the_background(folder):
    training = prepared("fsdp")
    train(training, 0, 3)
    pending = training[0].save_state(folder, asynchronous=True)
    going_on = train(training, 3, 6)
    pending.wait(30)
    training[0].load_state(folder)
    return train(training, 3, 6) == going_on


def _within_an_accumulation(folder, layout):
    """Save after two of three batches; FSDP has whole gradients of this rank alone then."""
    training = prepared(layout, gradient_accumulation_steps=3)
    train(training, 0, 2)
    training[0].save_state(folder)
    going_on = train(training, 2, 5)
    again = prepared(layout, gradient_accumulation_steps=3)
    again[0].load_state(folder)
    return train(again, 2, 5) == going_on


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
            _within_an_accumulation(f"{folder}/2", "fsdp"),
            _within_an_accumulation(f"{folder}/3", "by_hand"),
            _within_an_accumulation(f"{folder}/4", "tp"),
            _what_users_hold(f"{folder}/5"),
        ]

    assert on_ranks(all_of_it, str(tmp_path)) == [[True] * 5] * 2
    assert sorted(os.listdir(tmp_path)) == list("12345")
    accelerator = prepared("single", gradient_accumulation_steps=3)[0]
    with pytest.warns(UserWarning, match="has gradients of 2 batches of an accumulation"):
        accelerator.load_state(tmp_path / "2")
    assert accelerator.step == 0


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
