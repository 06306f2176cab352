"""Checkpoints of models that are divided over ranks, loaded into any other division of them."""

from __future__ import annotations

import sys

import cloudpickle
import pytest
import sharded_layouts
import torch
from ranks import on_ranks
from sharded_layouts import prepared, train

# The ranks cannot import it: what it defines travels by value.
cloudpickle.register_pickle_by_value(sys.modules[sharded_layouts.__name__])

ALL = ["single1", "ddp2", "fsdp2", "tp2", "fsdp4", "hsdp4", "fsdp_tp4"]


def _of(ranks):
    return [name for name in ALL if name.endswith(str(ranks))]


def _saved(folder, ranks):
    """Save after three batches in each layout of so many ranks; return the losses of three more."""
    losses = {}
    for name in _of(ranks):
        training = prepared(name[:-1])
        train(name[:-1], training, 0, 3)
        training[0].save_state(f"{folder}/{name}")
        losses[name] = train(name[:-1], training, 3, 6)
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
            losses[saved, name] = train(name[:-1], training, 3, 6)
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
