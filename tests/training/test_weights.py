"""Weights alone: tied ones, files of bounded size, what fits a model and what does not."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import torch
from ranks import on_ranks
from safetensors.torch import load_file
from torch import nn

from accelnb import Accelerator, AccelnbError
from accelnb.training.checkpoint import (
    clean_state_dict_for_safetensors,
    find_tied_parameters,
    load,
    save,
)
from accelnb.training.checkpoint.weights import merged_names
from accelnb.utils import load_checkpoint_in_model


class Tied(nn.Module):
    def __init__(self, tie: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 10, bias=False)
        if tie:
            self.head.weight = self.embedding.weight


def _equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_weight_is_in_the_file_once_and_back_under_both_names(tmp_path, safe, tied):
    model = Tied()
    Accelerator().save_model(model, tmp_path, safe_serialization=safe)
    if safe:
        assert "head.weight" not in load_file(tmp_path / "model.safetensors")
    other = Tied(tie=tied)
    load_checkpoint_in_model(other, tmp_path, strict=True)
    assert _equal(other, model)
    assert find_tied_parameters(other) == ([["embedding.weight", "head.weight"]] if tied else [])


def test_a_checkpoint_keeps_weights_tied(tmp_path):
    accelerator = Accelerator()
    model = accelerator.prepare(Tied())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for asynchronous in (False, True):
        accelerator.save_state(tmp_path / "checkpoint", asynchronous=asynchronous)
        accelerator._finish_saves()
        assert "head.weight" not in load_file(tmp_path / "checkpoint/model.safetensors")
        nn.init.zeros_(model.embedding.weight)
        accelerator.load_state(tmp_path / "checkpoint")
        assert torch.equal(model.head.weight, before["head.weight"])
        assert model.head.weight is model.embedding.weight


def test_parts_of_one_tensor_are_no_ties():
    whole = torch.arange(6.0)
    given = {"first": whole[:3], "second": whole[3:], "again": whole[:3], "empty": torch.empty(0)}
    cleaned = clean_state_dict_for_safetensors(given)
    assert {name: value.tolist() for name, value in cleaned.items()} == {
        "first": [0, 1, 2], "second": [3, 4, 5], "empty": []
    }  # fmt: skip
    assert len(given) == 4
    with pytest.raises(AccelnbError, match=r"extra is a dict, .*safe_serialization=False"):
        clean_state_dict_for_safetensors({"extra": {}})


def test_tensors_that_wrap_others_are_tied_only_if_they_are_one_object(monkeypatch):
    from torch.testing._internal.two_tensor import TwoTensor

    # DTensors too can say the same of their memory, though they hold different weights.
    monkeypatch.setattr(TwoTensor, "data_ptr", lambda _: 64, raising=False)
    one, other = (TwoTensor(torch.full((2,), x), torch.ones(2)) for x in (1.0, 2.0))
    assert merged_names({"one": one, "other": other, "again": one}) == {"again": "one"}


@pytest.mark.parametrize("safe", [True, False])
def test_shards_are_bounded_indexed_and_replace_those_of_an_earlier_save(tmp_path, safe):
    (tmp_path / "config.json").write_text("{}")
    model = nn.Sequential(*[nn.Linear(10, 10, bias=False) for _ in range(5)])  # 400 bytes each
    name, ending = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    accelerator = Accelerator()
    accelerator.save_model(model, tmp_path, 400, safe)
    accelerator.save_model(model, tmp_path, "1KB", safe)
    shards = [f"{name}-0000{i}-of-00003.{ending}" for i in (1, 2, 3)]
    index = f"{name}.{ending}.index.json"
    assert sorted(os.listdir(tmp_path)) == sorted(["config.json", *shards, index])
    written = json.loads((tmp_path / index).read_text())
    assert written["metadata"] == {"total_size": 2000}
    assert written["weight_map"] == {f"{i}.weight": shards[i // 2] for i in range(5)}

    other = nn.Sequential(*[nn.Linear(10, 10, bias=False) for _ in range(5)])
    load_checkpoint_in_model(other, tmp_path / index, strict=True)
    assert _equal(other, model)

    accelerator.save_model(model, tmp_path, safe_serialization=safe)
    assert sorted(os.listdir(tmp_path)) == ["config.json", f"{name}.{ending}"]
    with pytest.raises(AccelnbError, match=r"^max_shard_size=5 apples: give a size like '5MB'"):
        accelerator.save_model(model, tmp_path, "5 apples", safe)


@pytest.mark.parametrize("safe", [True, False])
def test_weights_load_in_accelerate_and_those_of_accelerate_here(tmp_path, safe):
    accelerate = pytest.importorskip("accelerate")
    model, other = Tied(), Tied()
    Accelerator().save_model(model, tmp_path / "ours", 200, safe)
    accelerate.load_checkpoint_in_model(other, tmp_path / "ours")
    assert _equal(other, model)
    theirs = accelerate.Accelerator(cpu=True)
    theirs.save_model(other, tmp_path / "theirs", 200, safe)
    again = Tied()
    load_checkpoint_in_model(again, tmp_path / "theirs", strict=True)
    assert _equal(again, model)


def test_a_checkpoint_of_accelerate_can_be_loaded(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    states = []
    for kind in (accelerate.Accelerator, Accelerator):
        torch.manual_seed(len(states))
        accelerator: Any = kind(cpu=True)
        model: Any = nn.Linear(2, 1)
        optimizer: Any = torch.optim.AdamW(model.parameters())
        model, optimizer = accelerator.prepare(model, optimizer)
        if not states:
            accelerator.backward(model(torch.ones(1, 2)).sum())
            optimizer.step()
            accelerator.save_state(tmp_path / "checkpoint")
        else:
            accelerator.load_state(tmp_path / "checkpoint")
        states.append(str([model.state_dict(), optimizer.state_dict(), torch.rand(1)]))
    assert states[0] == states[1]


def test_other_weights_change_nothing_unless_what_differs_is_only_missing(tmp_path):
    Accelerator().save_model(nn.Sequential(nn.Linear(2, 2)), tmp_path)
    wide: Any
    wide, deep = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = wide[0].weight.clone()
    with pytest.raises(AccelnbError, match=r"0.weight is \[2, 2\] there and \[3, 2\] in the model"):
        load_checkpoint_in_model(wide, tmp_path)
    assert torch.equal(wide[0].weight, before)
    with pytest.raises(AccelnbError, match=r"missing there: 1.weight, 1.bias"):
        load_checkpoint_in_model(deep, tmp_path, strict=True)
    with pytest.warns(UserWarning, match=r"missing there: 1.weight, 1.bias"):
        load_checkpoint_in_model(deep, tmp_path)
    with pytest.raises(AccelnbError, match=r"is no file and no folder with model.safetensors"):
        load_checkpoint_in_model(deep, tmp_path / "elsewhere")


def _save_on_ranks(folder):
    accelerator = Accelerator()
    model = accelerator.prepare(nn.Linear(2, 1))
    accelerator.save_model(model, folder)
    accelerator.save({"rank": accelerator.process_index}, f"{folder}/rank.bin")
    accelerator.wait_for_everyone()
    unwrapped, wrapped = accelerator.get_state_dict(model), accelerator.get_state_dict(model, False)
    try:
        accelerator.save_model(model, f"{folder}/rank.bin")
    except AccelnbError as error:
        return list(unwrapped), list(wrapped), load(f"{folder}/rank.bin"), str(error)


def test_the_main_process_saves_and_all_hear_of_its_error(tmp_path):
    zero, one = on_ranks(_save_on_ranks, str(tmp_path))
    assert zero[:3] == one[:3] == (
        ["weight", "bias"], ["module.weight", "module.bias"], {"rank": 0}
    )  # fmt: skip
    assert zero[3] == f"save_directory={tmp_path}/rank.bin: is a file; give a folder"
    assert one[3] == "rank 0: " + zero[3]
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors", "rank.bin"]


def test_loading_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    save({"x": Evil()}, tmp_path / "evil.bin")
    with pytest.raises(AccelnbError, match=r"holds a \w+.mkdir, which is not plain data"):
        load(tmp_path / "evil.bin")
    assert not (tmp_path / "made").exists()
    with pytest.raises(AccelnbError, match=r"absent.bin does not exist"):
        load(tmp_path / "absent.bin")
