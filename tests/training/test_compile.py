"""Compiled models and activations that are computed again."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch import nn
from torch._dynamo.utils import counters

from accelnb import AccelnbError
from accelnb.training.configuration import TorchDynamoPlugin
from accelnb.training.parallel.activation_checkpointing import checkpoint_activations
from accelnb.training.parallel.compilation import (
    compile_model,
    compile_regions,
    has_compiled_regions,
    is_compiled_module,
)

DEPTH = 12


@pytest.fixture(autouse=True)
def _nothing_compiled():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    counters.clear()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.wide = nn.Linear(16, 32)
        self.back = nn.Linear(32, 16)

    def forward(self, x):
        return x + self.back(torch.relu(self.wide(self.norm(x))))


class Net(nn.Module):
    def __init__(self, depth=DEPTH):
        super().__init__()
        self.first = nn.Linear(4, 16)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def _gradients(model):
    model.zero_grad(set_to_none=True)
    model(torch.linspace(0, 1, 12).view(3, 4)).square().sum().backward()
    return [parameter.grad for parameter in model.parameters()]


def _graphs():
    """How many graphs were compiled, and how many operations are in them."""
    return counters["stats"]["unique_graphs"], counters["stats"]["calls_captured"]


OPERATIONS = 5  # of a Block


@pytest.mark.parametrize(
    ("regional", "graphs", "operations"),
    [(False, 1, DEPTH * OPERATIONS + 2), (True, 1, OPERATIONS)],
)
def test_blocks_are_compiled_once_and_the_rest_whole(regional, graphs, operations):
    model = Net()
    plain, keys = _gradients(copy.deepcopy(model)), list(model.state_dict())
    plugin = TorchDynamoPlugin(backend="eager", use_regional_compilation=regional)
    assert compile_model(model, plugin) is model
    torch.testing.assert_close(_gradients(model), plain)
    assert _graphs() == (graphs, operations)
    assert list(model.state_dict()) == keys
    assert has_compiled_regions(model) is regional


def test_inductor_compiles_one_block_for_the_whole_stack():
    model = Net()
    plain = _gradients(copy.deepcopy(model))
    compile_regions(model, backend="inductor")
    torch.testing.assert_close(_gradients(model), plain, rtol=1e-4, atol=1e-5)
    assert _graphs() == (1, OPERATIONS)


def test_models_made_of_torchs_own_modules_are_compiled_too():
    # By itself, nn.Module.compile compiles nothing of them.
    whole = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    compile_model(whole, TorchDynamoPlugin(backend="eager"))
    whole(torch.ones(3, 4))
    assert _graphs() == (1, 3)

    layers = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(DEPTH)]
    stack = compile_regions(nn.Sequential(*layers), backend="eager")
    stack(torch.ones(1, 3, 8, requires_grad=True))
    assert counters["stats"]["unique_graphs"] == 2  # this model and that stack


def test_a_model_that_the_user_compiled_is_not_compiled_again():
    compiled: Any = torch.compile(Net(), backend="eager")
    assert is_compiled_module(compiled)
    assert compile_model(compiled, TorchDynamoPlugin(backend="aot_eager")) is compiled
    compiled(torch.ones(3, 4))
    assert _graphs() == (1, DEPTH * OPERATIONS + 2)
    assert not is_compiled_module(compiled._orig_mod)


def test_a_plugin_without_a_backend_compiles_nothing():
    for plugin in (TorchDynamoPlugin(), TorchDynamoPlugin(backend="eager", disable=True)):
        model = compile_model(Net(), plugin)
        model(torch.ones(3, 4))
        assert not has_compiled_regions(model)
    assert _graphs() == (0, 0)


def _peak(model):
    """The bytes of what the forward pass of the model keeps for the backward pass."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.ones(64, 4))
    return sum(kept.values())


@pytest.mark.parametrize("compiled", ["no", "regions", "whole"])
def test_checkpointed_blocks_keep_less_and_give_the_same_gradients(compiled):
    model = Net()
    plain, before = _gradients(copy.deepcopy(model)), _peak(model)
    names = [name for name, _ in model.named_parameters()], list(model.state_dict())
    assert checkpoint_activations(model) is model
    checkpoint_activations(model)  # twice is once
    if compiled == "no":
        assert _peak(model) < before / 2
    else:
        plugin = TorchDynamoPlugin("eager", use_regional_compilation=compiled == "regions")
        compile_model(model, plugin)
    torch.testing.assert_close(_gradients(model), plain)
    assert ([name for name, _ in model.named_parameters()], list(model.state_dict())) == names
    assert _graphs()[0] == (compiled != "no")


def test_a_copy_and_a_pickle_of_a_changed_model_are_models_of_their_own():
    model = compile_regions(checkpoint_activations(Net()), backend="eager")
    plain = _gradients(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        model.zero_grad(set_to_none=True)
        torch.testing.assert_close(_gradients(other), plain)
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not has_compiled_regions(other)


def test_a_model_without_blocks_needs_their_classes():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Block())
    with pytest.raises(AccelnbError, match=r"^activation checkpointing: this Sequential has no re"):
        checkpoint_activations(model)
    checkpoint_activations(model, blocks=Block)
    assert "forward" in vars(model[2])


def _trained_with_ddp():
    from torch._dynamo.utils import counters  # of the rank
    from torch.nn.parallel import DistributedDataParallel

    results = []
    for regional in (None, False, True):
        torch._dynamo.reset()
        counters.clear()
        torch.manual_seed(0)
        model = DistributedDataParallel(Net(depth=2))
        if regional is not None:
            compile_model(model, TorchDynamoPlugin("eager", use_regional_compilation=regional))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        torch.manual_seed(torch.distributed.get_rank())
        for _ in range(3):
            model(torch.rand(3, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        results.append((weights, counters["stats"]["unique_graphs"]))
    return results


def test_a_compiled_model_trains_on_ranks_as_one_that_is_not():
    ranks = on_ranks(_trained_with_ddp)
    (plain, none), *compiled = ranks[0]
    assert none == 0
    assert torch.equal(ranks[1][0][0], plain)
    for weights, graphs in [*compiled, *ranks[1][1:]]:
        torch.testing.assert_close(weights, plain)
        assert graphs == 1
