"""Hooks around the forward pass of a module."""

from __future__ import annotations

import copy
import inspect
import io
import pickle

import pytest
import torch
from torch import nn
from torch.fx import symbolic_trace

from accelnb import attach_layerwise_casting_hooks, cpu_offload_with_hook
from accelnb.big_model.align_devices import AlignDevicesHook
from accelnb.big_model.hooks import (
    ModelHook,
    SequentialHook,
    add_hook_to_module,
    remove_hook_from_module,
)
from accelnb.big_model.offloaded_files import offload_state_dict
from accelnb.big_model.weights_maps import OffloadedWeightsLoader
from accelnb.utils import align_module_device


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
        return x * scale


class Adds(ModelHook):
    """It adds to an argument, to a keyword argument and to the output."""

    def __init__(self, number: float) -> None:
        self.number = number

    def pre_forward(self, module, *args, **kwargs):
        return (args[0] + self.number, *args[1:]), {"scale": kwargs["scale"] + self.number}

    def post_forward(self, module, output):
        return output + self.number


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).eval()


def offloaded(model: nn.Sequential, **options) -> nn.Sequential:
    for layer in model:
        add_hook_to_module(layer, AlignDevicesHook("cpu", offload=True, **options))
    return model


def test_a_hook_changes_arguments_and_outputs_and_goes_without_a_trace():
    module, one = Scaled(), torch.ones(1)
    add_hook_to_module(module, Adds(1))
    assert module(one, scale=2.0).item() == (1 + 1) * (2 + 1) + 1
    assert module.forward.__name__ == "forward"
    assert list(inspect.signature(module.forward).parameters) == ["x", "scale"]
    remove_hook_from_module(module)
    assert module(one, scale=2.0).item() == 2
    assert not {"forward", "_hf_hook", "_old_forward"} & vars(module).keys()


def test_appended_hooks_come_after_those_that_are_there_and_others_replace_them():
    module, one = Scaled(), torch.ones(1)
    add_hook_to_module(module, Adds(1))
    add_hook_to_module(module, Adds(10), append=True)
    assert isinstance(module._hf_hook, SequentialHook)
    assert module(one, scale=0.0).item() == (1 + 1 + 10) * (1 + 10) + 1 + 10
    add_hook_to_module(module, Adds(0))
    assert module(one, scale=3.0).item() == 3


def test_one_hook_without_gradients_is_enough():
    layer = nn.Linear(2, 2)
    frozen = ModelHook()
    frozen.no_grad = True
    add_hook_to_module(layer, frozen)
    add_hook_to_module(layer, ModelHook(), append=True)
    assert not layer(torch.ones(1, 2)).requires_grad


def test_a_traced_module_can_be_changed_after_its_hook_is_gone():
    graph = symbolic_trace(layers())
    x = torch.randn(3, 4)
    expected = graph(x)
    add_hook_to_module(graph, Adds(0))
    with pytest.raises(KeyError, match="scale"):
        graph(x)  # the hook is called
    remove_hook_from_module(graph, recurse=True)
    torch.testing.assert_close(graph(x), expected)
    last = next(node for node in graph.graph.nodes if node.op == "output")
    with graph.graph.inserting_before(last):
        negative = graph.graph.call_function(torch.neg, (last.args[0],))
    last.replace_input_with(last.args[0], negative)
    graph.recompile()
    torch.testing.assert_close(graph(x), -expected)


@pytest.mark.parametrize("buffers", [False, True])
def test_weights_are_there_for_the_forward_pass_only(buffers):
    model, x = layers(), torch.randn(3, 4)
    expected = model(x)
    before = copy.deepcopy(model.state_dict())
    offloaded(model, offload_buffers=buffers)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model[1].running_mean.is_meta == buffers
    stand_in = model[0].weight
    torch.testing.assert_close(model(x), expected)
    assert model[0].weight is stand_in
    remove_hook_from_module(model, recurse=True)
    torch.testing.assert_close(dict(model.state_dict()), dict(before))


def test_weights_stay_away_when_another_hook_is_appended():
    model, x = layers(), torch.randn(3, 4)
    expected = model(x)
    offloaded(model)
    for layer in model:
        add_hook_to_module(layer, ModelHook(), append=True)
    assert all(parameter.is_meta for parameter in model.parameters())
    torch.testing.assert_close(model(x), expected)
    with align_module_device(model[0]):
        assert model[0].weight.device.type == "cpu"
    assert model[0].weight.is_meta


def test_copies_of_a_model_have_hooks_of_their_own():
    model, x = layers(), torch.randn(3, 4)
    expected = model(x)
    offloaded(model)
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    others = copy.deepcopy(model), torch.load(saved, weights_only=False)
    model[0]._hf_hook.weights_map["weight"].zero_()
    for other in (*others, pickle.loads(pickle.dumps(others[0]))):
        assert other[0]._hf_hook is not model[0]._hf_hook
        torch.testing.assert_close(other(x), expected)


def test_compiled_models_with_hooks_compute_the_same():
    model, x = layers(), torch.randn(3, 4)
    expected = model(x)
    compiled = torch.compile(offloaded(model), backend="eager")
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(compiled(x), expected)
    assert model[0].weight.is_meta


def test_gradients_reach_the_input_and_those_of_weights_elsewhere_are_said_to_be_lost():
    model = layers()
    x = torch.randn(3, 4, requires_grad=True)
    model(x).sum().backward()
    expected, x.grad = x.grad, None
    offloaded(model)
    with pytest.warns(UserWarning, match="thrown away"):
        model(x).sum().backward()
    torch.testing.assert_close(x.grad, expected)
    assert model[0].weight.grad is None


def test_weights_that_come_back_from_files_do_not_need_them_any_more(tmp_path):
    model = layers()
    before = copy.deepcopy(model[0].state_dict())
    offload_state_dict(tmp_path, model[0].state_dict())
    weights = OffloadedWeightsLoader(save_folder=tmp_path)
    add_hook_to_module(model[0], AlignDevicesHook("cpu", offload=True, weights_map=weights))
    remove_hook_from_module(model[0])
    (tmp_path / "weight.dat").write_bytes(b"")  # mapped pages would be gone now
    torch.testing.assert_close(dict(model[0].state_dict()), dict(before))


def test_inputs_go_to_the_device_of_the_module_and_outputs_come_back():
    layer = nn.Linear(4, 2)
    add_hook_to_module(layer, AlignDevicesHook("meta"))
    assert layer(torch.randn(3, 4)).is_meta
    add_hook_to_module(layer, AlignDevicesHook("meta", skip_keys="mask"))
    args, kwargs = layer._hf_hook.pre_forward(layer, torch.ones(1), mask=torch.ones(1))
    assert args[0].is_meta
    assert not kwargs["mask"].is_meta


@pytest.mark.parametrize("skipped", [None, "2", ("2",)])
def test_weights_that_are_kept_in_a_smaller_type_compute_in_the_larger_one(skipped):
    model, x = layers(), torch.randn(3, 4)
    rounded = copy.deepcopy(model)
    for layer in (rounded[0], *([] if skipped else [rounded[2]])):
        layer.to(torch.float8_e4m3fn).to(torch.float32)
    attach_layerwise_casting_hooks(model, torch.float8_e4m3fn, torch.float32, skipped)
    types = [parameter.dtype for parameter in model.parameters()]
    last = torch.float32 if skipped else torch.float8_e4m3fn
    assert types == [torch.float8_e4m3fn] * 2 + [torch.float32] * 2 + [last] * 2
    torch.testing.assert_close(model(x), rounded(x))
    assert model[0].weight.dtype == torch.float8_e4m3fn


def test_a_model_goes_to_the_cpu_when_the_next_one_computes():
    first, hook = cpu_offload_with_hook(nn.Linear(4, 4), "cpu")
    second, last = cpu_offload_with_hook(nn.Linear(4, 4), "cpu", prev_module_hook=hook)
    calls = []
    hook.hook.init_hook = lambda module: calls.append(module) or module
    first.to("meta")  # stands for a device
    second(torch.ones(1, 4))
    assert calls == [first]
    last.remove()
    assert not hasattr(second, "_hf_hook")
