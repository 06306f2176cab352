"""Weights in files: what comes back, and that it is mapped instead of copied."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from accelnb import AccelnbError
from accelnb.utils import (
    OffloadedWeightsLoader,
    PrefixedDataset,
    extract_submodules_state_dict,
    load_offloaded_weight,
    offload_state_dict,
    offload_weight,
    save_offload_index,
    set_module_tensor_to_device,
)

TENSORS = {
    "float": torch.randn(3, 4),
    "half": torch.randn(3).half(),
    "bfloat": torch.randn(2, 2).bfloat16(),
    "fp8": torch.randn(5).to(torch.float8_e4m3fn),
    "int": torch.arange(6).view(2, 3),
    "bool": torch.tensor([True, False]),
    "complex": torch.randn(2, dtype=torch.complex64),
    "scalar": torch.tensor(3.5),
    "empty": torch.empty(0, 7),
    "not contiguous": torch.randn(4, 6).T,
}


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def anonymous() -> int:
    """Return the bytes of this process that are no pages of files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    pytest.skip("this kernel does not tell anonymous memory apart")


def test_what_is_written_comes_back_with_its_type_and_shape(tmp_path):
    offload_state_dict(tmp_path, TENSORS)
    loaded = OffloadedWeightsLoader(save_folder=tmp_path)
    assert list(loaded) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(as_bytes(loaded[name]), as_bytes(tensor))
        assert loaded[name].shape == tensor.shape


def test_accelerate_reads_what_is_written_and_the_other_way_round(tmp_path):
    theirs = pytest.importorskip("accelerate.utils")
    known = {name: it for name, it in TENSORS.items() if name not in ("complex", "empty")}
    offload_state_dict(tmp_path / "ours", known)
    theirs.offload_state_dict(tmp_path / "theirs", known)
    for name in known:
        by_them = theirs.OffloadedWeightsLoader(save_folder=tmp_path / "ours")[name]
        by_us = OffloadedWeightsLoader(save_folder=tmp_path / "theirs")[name]
        assert by_us.dtype == by_them.dtype
        assert by_us.shape == by_them.shape
        assert torch.equal(by_us.float(), by_them.float())


def test_mapped_weights_take_no_memory_and_changing_them_leaves_the_file(tmp_path):
    weight = torch.arange(8 * 2**20, dtype=torch.float32)
    index = offload_weight(weight, "weight", tmp_path, {})
    save_file({"weight": weight}, tmp_path / "model.safetensors")
    entry = {"safetensors_file": str(tmp_path / "model.safetensors")}
    of_safetensors = OffloadedWeightsLoader(index={"weight": entry})
    before = anonymous()
    for mapped in (
        load_offloaded_weight(tmp_path / "weight.dat", index["weight"]),
        of_safetensors["weight"],
    ):
        assert mapped.sum() == weight.sum()
        assert anonymous() - before < weight.nbytes / 4
    changed = load_offloaded_weight(tmp_path / "weight.dat", index["weight"])
    changed[0] = -1
    assert load_offloaded_weight(tmp_path / "weight.dat", index["weight"])[0] == 0


def test_a_mapped_weight_can_be_written_to_the_file_that_it_maps(tmp_path):
    weight = torch.arange(1e6)
    offload_state_dict(tmp_path, {"weight": weight})
    mapped = OffloadedWeightsLoader(save_folder=tmp_path)["weight"]
    offload_state_dict(tmp_path, {"weight": mapped[:10]})
    assert torch.equal(mapped, weight)
    assert torch.equal(OffloadedWeightsLoader(save_folder=tmp_path)["weight"], weight[:10])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["index.json", "weight.dat"]


def test_an_index_grows_and_memory_comes_before_files(tmp_path):
    offload_state_dict(tmp_path, {"a": torch.zeros(1), "b": torch.zeros(1)})
    save_offload_index({"c": {"dtype": "float32", "shape": [1]}}, tmp_path)
    assert list(json.loads((tmp_path / "index.json").read_text())) == ["a", "b", "c"]
    weights = OffloadedWeightsLoader({"b": torch.ones(1)}, tmp_path)
    assert (list(weights), len(weights)) == (["b", "a", "c"], 3)
    assert weights["b"] == 1
    assert weights["a"] == 0
    assert "c" in weights  # without its file being there
    assert "d" not in weights


def test_safetensors_by_another_name_and_type(tmp_path):
    save_file({"old": torch.ones(2)}, tmp_path / "part.safetensors")
    entry = {"safetensors_file": tmp_path / "part.safetensors", "weight_name": "old"}
    weights = OffloadedWeightsLoader(index={"new": entry | {"dtype": "bfloat16"}})
    assert torch.equal(weights["new"], torch.ones(2).bfloat16())
    assert torch.equal(copy.deepcopy(weights)["new"], weights["new"])
    on_meta = OffloadedWeightsLoader(index={"new": entry}, device="meta")
    assert on_meta["new"].is_meta


def test_a_prefix_makes_a_mapping_of_its_own():
    part = PrefixedDataset({"a.weight": 1, "a.bias": 2, "b.weight": 3}, "a.")
    assert dict(part.items()) == {"weight": 1, "bias": 2}
    assert len(part) == 2
    assert "weight" in part
    assert "a.weight" not in part


def test_parts_of_a_state_dict_end_at_a_dot():
    state = dict.fromkeys(("h.1.weight", "h.10.weight", "h.1", "head"), torch.ones(1))
    assert list(extract_submodules_state_dict(state, ["h.1", "head"])) == [
        "h.1.weight",
        "h.1",
        "head",
    ]


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda path: OffloadedWeightsLoader(), "give a state_dict"),
        (lambda path: OffloadedWeightsLoader(save_folder=path), "it has no index.json"),
        (lambda path: OffloadedWeightsLoader(index={"a": {}})["a"], "no save_folder"),
        (lambda path: offload_weight(torch.empty(1, device="meta"), "a", path), "no values"),
    ],
)
def test_what_is_missing_is_said(tmp_path, act, said):
    with pytest.raises(AccelnbError, match=said) as caught:
        act(tmp_path)
    assert isinstance(caught.value, ValueError)  # as in Accelerate
    assert not list(tmp_path.iterdir())


# ---- a tensor of a module on another device ----


def layer() -> Any:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_a_tensor_loses_its_values_and_gets_others():
    model = layer()
    model[0].weight.partition_dim = 1  # libraries put such marks on parameters
    set_module_tensor_to_device(model, "0.weight", "meta")
    set_module_tensor_to_device(model, "1.running_mean", "meta")
    assert model[0].weight.is_meta
    assert model[1].running_mean.is_meta
    with pytest.raises(ValueError, match="weight is on the meta device"):
        set_module_tensor_to_device(model, "0.weight", "cpu")
    value = torch.randn(2, 3, dtype=torch.float64)
    set_module_tensor_to_device(model, "0.weight", "cpu", value=value)
    set_module_tensor_to_device(model, "1.running_mean", "cpu", value=torch.ones(2))
    assert model[0].weight.partition_dim == 1
    assert isinstance(model[0].weight, nn.Parameter)
    assert model[0].weight.requires_grad
    assert torch.equal(model[0].weight.detach(), value.float())
    assert model[1].running_mean.sum() == 2


def test_integers_keep_their_type_and_the_rest_takes_the_one_that_is_asked_for():
    model = layer()
    set_module_tensor_to_device(model, "0.weight", "cpu", dtype="bfloat16")
    count = torch.tensor(5)
    set_module_tensor_to_device(
        model, "1.num_batches_tracked", "cpu", value=count, dtype=torch.float16
    )
    assert model[0].weight.dtype == torch.bfloat16
    assert model[1].num_batches_tracked.dtype == torch.int64
    set_module_tensor_to_device(model, "0.bias", "meta", dtype=torch.float16)
    assert (model[0].bias.dtype, model[0].bias.is_meta) == (torch.float16, True)


def test_a_tied_weight_is_put_there_once():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    tied: dict = {first.weight.data_ptr(): {}}
    weight = first.weight
    value = weight.detach()
    for module in (first, second):
        set_module_tensor_to_device(module, "weight", "meta")
        set_module_tensor_to_device(module, "weight", "cpu", value=value, tied_params_map=tied)
    assert first.weight is second.weight
    assert list(tied[value.data_ptr()]) == ["cpu"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("0.scale", None, "no parameter or buffer 0.scale"),
        ("2.weight", None, "no module 2"),
        ("0.weight", torch.ones(3, 2), "shape"),
    ],
)
def test_a_wrong_name_or_value_changes_nothing(name, value, said):
    model = layer()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(AccelnbError, match=said):
        set_module_tensor_to_device(model, name, "cpu", value=value)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key])
