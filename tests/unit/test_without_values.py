"""Models without values (the meta device) in one process."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from accelnb import Accelerator, AccelnbError
from accelnb.utils import initialize_weights, load_checkpoint_in_model


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))


def without_values() -> nn.Sequential:
    with torch.device("meta"):
        return net()


def equal(model: nn.Module, other: nn.Module) -> bool:
    one, two = model.state_dict(), other.state_dict()
    return all(torch.equal(one[name], two[name]) for name in two)


def test_weights_come_from_files_and_the_optimizer_goes_on_with_them(tmp_path):
    saved, model = net(), without_values()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    accelerator = Accelerator()
    for name, safe in (("safe", True), ("pickled", False)):
        accelerator.save_model(saved, tmp_path / name, safe_serialization=safe)
        filled = without_values()
        load_checkpoint_in_model(filled, tmp_path / name, strict=True)
        assert equal(filled, saved)
    model, optimizer = accelerator.prepare(model, optimizer)
    with pytest.raises(AccelnbError, match=r"has no values for 0\.weight, 0\.bias, 1\.weight and"):
        model(torch.ones(3, 4))
    load_checkpoint_in_model(model, tmp_path / "safe")
    accelerator.backward(model(torch.randn(3, 4)).sum())
    optimizer.step()
    assert not torch.equal(model.get_parameter("2.bias"), saved.get_parameter("2.bias"))


def test_initial_values_are_those_of_a_model_that_is_made_with_them():
    torch.manual_seed(0)
    made, following = net(), torch.rand(())
    torch.manual_seed(0)
    model = without_values()
    initialize_weights(model)
    assert equal(model, made)
    assert torch.rand(()) == following


def test_what_has_no_reset_parameters_needs_a_function():
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.ones(2, device="meta"))

    model = Scale()
    with pytest.raises(
        AccelnbError, match=r"Scale have no reset_parameters\(\); give a param_init"
    ):
        initialize_weights(model)
    assert model.by.is_meta
    initialize_weights(model, lambda module: nn.init.ones_(module.get_parameter("by")))
    assert model.by.tolist() == [1, 1]
