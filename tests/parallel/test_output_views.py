"""What a sharded model returns: torch warns of views, and here a change to one is an error."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from ranks import on_ranks
from torch import nn

from accelnb import Accelerator


def train() -> dict[str, Any]:
    accelerator = Accelerator()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.5))
    batch = torch.randn(2, 3, 8)  # of sequences: the last layer returns a view
    losses = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", append=True)
        for _ in range(2):
            scores = model(batch) / 0.5
            loss = scores.pow(2).mean()
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    changed = model(batch)
    try:
        changed /= 0.5
    except RuntimeError as error:
        said = str(error)
    else:
        said = ""
    return {"losses": losses, "said": said, "warned": [str(it.message) for it in warned]}


def test_an_output_that_is_changed_in_place_is_an_error_instead_of_wrong_gradients():
    copies = on_ranks(train, strategy="ddp")[0]
    sharded = on_ranks(train, strategy="fsdp")[0]
    assert sharded["losses"] == copies["losses"]
    assert "OutputOfShardedModule is a view and is being modified inplace" in sharded["said"]
    assert sharded["warned"] == []
