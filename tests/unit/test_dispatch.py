"""Models whose parts are on several devices, on the CPU and on disk."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from accelnb import Accelerator, AccelnbError, cpu_offload, disk_offload, dispatch_model
from accelnb.big_model.hooks import remove_hook_from_submodules
from accelnb.big_model.moving import MovedOffloadedModel
from accelnb.training.parallel.placement import lies_on_several_devices
from accelnb.utils import align_module_device


class Tied(nn.Module):
    """A language model whose words are its head, with a weight that is used beside its module."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(16, 8)
        self.body = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.body(self.words(tokens))))


class Direct(nn.Module):
    """A module that never calls what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.inner.weight.T + self.inner.bias


MAPS = [
    {"words": "cpu", "body": "disk", "norm": "cpu", "head": "cpu"},
    {"words": "disk", "body": "disk", "norm": "disk", "head": "disk"},
    {"words": "cpu", "body": "cpu", "norm": "disk", "head": "disk"},
    {"": "disk"},
]


def tied() -> Tied:
    torch.manual_seed(0)
    return Tied().eval()


@pytest.mark.parametrize("device_map", MAPS)
@pytest.mark.parametrize("buffers", [False, True])
def test_a_dispatched_model_computes_what_it_did(tmp_path, device_map, buffers):
    model, tokens = tied(), torch.arange(16)
    expected, state = model(tokens), copy.deepcopy(model.state_dict())
    dispatch_model(model, device_map, offload_dir=tmp_path, offload_buffers=buffers)
    assert model.hf_device_map == device_map
    for _ in range(3):
        torch.testing.assert_close(model(tokens), expected)
    remove_hook_from_submodules(model)
    torch.testing.assert_close(dict(model.state_dict()), dict(state))
    torch.testing.assert_close(model.to("cpu")(tokens), expected)


def test_weights_that_lie_in_safetensors_already_are_read_there(tmp_path):
    model, tokens = tied(), torch.arange(16)
    expected = model(tokens)
    file = str(tmp_path / "model.safetensors")
    save_file({"the.body": model.body.weight.detach().half()}, file)
    entry = {"safetensors_file": file, "weight_name": "the.body", "dtype": "float32"}
    rest = {"body.bias": model.body.bias.detach()}
    with torch.no_grad():
        model.body.weight.copy_(model.body.weight.half())
    expected = model(tokens)
    model.body.weight = nn.Parameter(model.body.weight.to("meta"))
    device_map = {"words": "cpu", "body": "disk", "norm": "cpu", "head": "cpu"}
    dispatch_model(model, device_map, state_dict=rest, offload_index={"body.weight": entry})
    torch.testing.assert_close(model(tokens), expected)


def test_weights_that_are_used_beside_their_module_come_before_it(tmp_path):
    torch.manual_seed(0)
    model, x = nn.Sequential(Direct(), Direct()), torch.randn(2, 8)
    expected = model(x)
    disk_offload(model, tmp_path, preload_module_classes=["Direct"])
    torch.testing.assert_close(model(x), expected)
    assert model[0].inner.weight.is_meta


def test_what_cannot_be_dispatched_is_left_as_it_was(tmp_path):
    model = tied()
    for device_map, said in (({"words": "cpu"}, "body"), ({"": "disk"}, "offload_dir")):
        with pytest.raises(ValueError, match=said) as caught:
            dispatch_model(model, device_map)
        assert isinstance(caught.value, AccelnbError)
        assert not any(hasattr(module, "_hf_hook") for module in model.modules())


def test_a_dispatched_model_is_not_moved_and_can_be_converted(tmp_path):
    model, tokens = tied(), torch.arange(16)
    expected = model(tokens)
    dispatch_model(model, MAPS[0], offload_dir=tmp_path)
    for move in (model.cpu, lambda: model.to("cpu"), lambda: model.to(device="cpu")):
        with pytest.raises(MovedOffloadedModel, match=r"body\.weight"):
            move()
    other = copy.deepcopy(model)
    other.to(torch.float64)
    assert other(tokens).dtype == torch.float64
    torch.testing.assert_close(other(tokens), expected.double(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(tokens), expected)


def test_one_device_for_all_needs_no_hooks_unless_they_are_asked_for():
    model = dispatch_model(tied(), {"": "cpu"})
    assert not hasattr(model, "_hf_hook")
    assert hasattr(dispatch_model(model, {"": "cpu"}, force_hooks=True), "_hf_hook")


def test_tied_weights_stay_one():
    model = dispatch_model(tied(), {"": "cpu"}, force_hooks=True)
    assert model.head.weight is model.words.weight


def test_weights_can_be_seen_outside_of_a_forward_pass():
    model = tied()
    weight = model.body.weight.detach().clone()
    cpu_offload(model)
    with align_module_device(model.body):
        torch.testing.assert_close(model.body.weight.detach(), weight)
    with align_module_device(model.body, "meta"):
        assert model.body.weight.is_meta
    assert model.body.weight.is_meta
    layer = nn.Linear(2, 2)
    with align_module_device(layer, "cpu"):
        assert layer.weight.device.type == "cpu"


@pytest.mark.parametrize("device_map", MAPS)
def test_an_accelerator_saves_weights_wherever_they_are(tmp_path, device_map):
    model, tokens = tied(), torch.arange(16)
    expected, state = model(tokens), copy.deepcopy(dict(model.state_dict()))
    dispatch_model(model, device_map, offload_dir=tmp_path / "offloaded")
    accelerator = Accelerator()
    prepared = accelerator.prepare(model)
    torch.testing.assert_close(prepared(tokens), expected)
    torch.testing.assert_close(dict(accelerator.get_state_dict(prepared)), state)
    accelerator.save_model(prepared, tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert saved.keys() >= state.keys() - {"head.weight", "words.weight"}
    torch.testing.assert_close(saved, {name: state[name] for name in saved})
    checkpoint = accelerator.save_state(tmp_path / "checkpoint")
    with pytest.raises(AccelnbError, match="no checkpoint can be loaded"):
        accelerator.load_state(checkpoint)
    accelerator.free_memory()


def test_weights_elsewhere_are_not_trained(tmp_path):
    model = disk_offload(tied(), tmp_path)
    accelerator = Accelerator()
    with pytest.raises(AccelnbError, match="cannot be trained: freeze"):
        accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert lies_on_several_devices(model)
    accelerator.free_memory()
