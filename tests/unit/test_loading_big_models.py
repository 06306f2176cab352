"""Checkpoints loaded by device map: values, places, types, memory."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from accelnb import (
    Accelerator,
    AccelnbError,
    init_empty_weights,
    load_checkpoint_and_dispatch,
    load_checkpoint_in_model,
)
from accelnb.utils import (
    OffloadedWeightsLoader,
    load_offloaded_weights,
    load_state_dict,
    offload_state_dict,
)


class Model(nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.words(x)))


def trained(tied: bool = False) -> Any:
    """Return a model whose buffers are not those of a new one."""
    model = Model(tied)
    model(torch.arange(7))
    return model.eval()


def empty(tied: bool = False) -> Any:
    with init_empty_weights():
        return Model(tied).eval()


def equal(model: nn.Module, other: nn.Module) -> bool:
    one, two = model.state_dict(), other.state_dict()
    return all(torch.equal(one[name], two[name]) for name in two)


@pytest.fixture(params=["safe", "pickled", "shards"])
def checkpoint(request, tmp_path):
    """Return a function that saves a model in one of the formats."""

    def save(model: nn.Module) -> Path:
        size = 150 if request.param == "shards" else "1GB"
        safe = request.param != "pickled"
        Accelerator().save_model(model, tmp_path / "saved", size, safe)
        return tmp_path / "saved"

    return save


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("places", [{"": "cpu"}, {"words": "cpu", "norm": "disk", "head": "cpu"}])
def test_all_values_are_there_and_the_model_runs(checkpoint, tmp_path, tied, places):
    saved = trained(tied)
    folder = checkpoint(saved)
    model: Any = load_checkpoint_and_dispatch(
        empty(tied), folder, places, offload_folder=tmp_path / "offloaded", strict=True
    )
    x = torch.arange(7)
    assert torch.equal(model(x), saved(x))
    assert torch.equal(
        model.norm.running_mean, saved.norm.running_mean
    )  # buffers are not offloaded
    assert (model.head.weight is model.words.weight) == tied
    assert model.norm.weight.is_meta == ("norm" in places)


def test_what_is_on_disk_stays_in_safetensors_and_is_written_from_others(checkpoint, tmp_path):
    saved = trained(tied=True)
    folder, offloaded = checkpoint(saved), tmp_path / "offloaded"
    model = empty(tied=True)
    load_checkpoint_in_model(
        model, folder, {"": "disk"}, offloaded, offload_buffers=True, strict=True
    )
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    weights = OffloadedWeightsLoader(save_folder=offloaded)
    for name, tensor in saved.state_dict().items():  # also under each name of a tied one
        assert torch.equal(weights[name], tensor)
    pickled = not list(folder.glob("*.safetensors"))
    assert bool(list(offloaded.glob("*.dat"))) == pickled


def test_types(tmp_path):
    saved = trained()
    Accelerator().save_model(saved, tmp_path / "saved")
    places = {"words": "cpu", "norm": "cpu", "head": "disk"}
    model = empty()
    load_checkpoint_in_model(
        model, tmp_path / "saved", places, tmp_path, "bfloat16", keep_in_fp32_modules=["norm"]
    )
    assert model.words.weight.dtype == model.head.weight.dtype == torch.bfloat16
    assert model.norm.weight.dtype == torch.float32
    assert model.norm.num_batches_tracked.dtype == torch.int64
    there = OffloadedWeightsLoader(save_folder=tmp_path)["head.weight"]
    assert torch.equal(there, saved.head.weight.bfloat16())
    half = Model().half()  # the model's types, not the file's
    load_checkpoint_in_model(half, tmp_path / "saved", places, tmp_path)
    assert {half.words.weight.dtype, half.head.weight.dtype} == {torch.float16}
    without_a_map = Model()
    load_checkpoint_in_model(without_a_map, tmp_path / "saved", dtype=torch.float16)
    assert torch.equal(without_a_map.words.weight, saved.words.weight.half())


def test_parameters_stay_the_objects_that_they_are_and_own_their_memory(tmp_path):
    saved = trained()
    path = tmp_path / "model.safetensors"
    save_file(saved.state_dict(), path)
    model, empty_one = Model(), empty()
    before = dict(model.named_parameters())
    for its in (model, empty_one):
        load_checkpoint_in_model(its, path, {"": "cpu"}, strict=True)
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))  # what is mapped would change
    assert equal(model, saved)
    assert equal(empty_one, saved)


def test_what_no_file_has_is_offloaded_with_its_own_values(tmp_path):
    saved = trained()
    state = saved.state_dict()
    del state["head.weight"]
    save_file(state, tmp_path / "part.safetensors")
    model: Any = Model()
    own = copy.deepcopy(model.head.weight)
    with pytest.warns(UserWarning, match=r"missing there: head\.weight"):
        load_checkpoint_in_model(model, tmp_path / "part.safetensors", {"": "disk"}, tmp_path)
    assert torch.equal(OffloadedWeightsLoader(save_folder=tmp_path)["head.weight"], own)


def test_an_index_of_any_name(tmp_path):
    saved = trained()
    state = saved.state_dict()
    for name, tensor in state.items():
        torch.save({name: tensor}, tmp_path / f"{name}.bin")
    index = tmp_path / "weights.index.json"
    index.write_text(json.dumps({name: f"{name}.bin" for name in state}))
    for given in (tmp_path, index):
        model = Model().eval()
        load_checkpoint_in_model(model, given, {"": "cpu"}, strict=True)
        assert equal(model, saved)
    (tmp_path / "other.index.json").write_text("{}")
    with pytest.raises(AccelnbError, match="several indices"):
        load_checkpoint_in_model(model, tmp_path)


@pytest.mark.parametrize(
    ("device_map", "options", "said"),
    [
        ({"": "disk"}, {}, "give the offload_folder"),
        ({"words": "cpu", "norm": "cpu"}, {}, r"no device for head\.weight"),
        ({"": "cpu"}, {"checkpoint": "nothing"}, "is no file and no folder"),
        ({"": "cpu"}, {"model": nn.Linear(2, 2), "strict": True}, "missing there"),
        ({"": "cpu"}, {"dtype": "float17"}, "torch has no such type"),
        ({"": "cpu"}, {"broadcast_from_rank0": True}, "without a device_map"),
        ({"": 0}, {}, "torch sees none here"),
    ],
)
def test_what_cannot_be_changes_nothing(tmp_path, device_map, options, said):
    if device_map == {"": 0} and torch.accelerator.is_available():
        pytest.skip("there is an accelerator")
    Accelerator().save_model(trained(), tmp_path / "saved")
    model = options.pop("model", None) or Model()
    before = copy.deepcopy(model.state_dict())
    arguments = {"checkpoint": tmp_path / "saved", "device_map": device_map} | options
    with pytest.raises(AccelnbError, match=said):
        load_checkpoint_in_model(model, **arguments)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(AccelnbError, match="choose one of auto"):
        load_checkpoint_and_dispatch(model, tmp_path, "best")


def test_words_for_device_maps(tmp_path):
    saved = trained()
    Accelerator().save_model(saved, tmp_path / "saved")
    memory: Any = {"cpu": 250}
    for word in ("auto", "sequential"):
        model: Any = load_checkpoint_and_dispatch(
            empty(), tmp_path / "saved", word, memory, offload_folder=tmp_path
        )
        assert torch.equal(model(torch.arange(7)), saved(torch.arange(7)))
        assert model.hf_device_map == {"words": "cpu", "norm": "disk", "head": "disk"}


def test_state_dicts_by_device(tmp_path):
    save_file({"a": torch.ones(2), "b": torch.ones(3)}, tmp_path / "x.safetensors")
    torch.save({"a": torch.ones(2), "b": torch.ones(3)}, tmp_path / "x.bin")
    for file in ("x.safetensors", "x.bin"):
        state = load_state_dict(tmp_path / file, {"a": "meta", "b": "disk"})
        assert (state["a"].is_meta, state["b"].tolist()) == (True, [1, 1, 1])
        assert load_state_dict(str(tmp_path / file))["a"].tolist() == [1, 1]
    save_file({"a": torch.ones(1)}, tmp_path / "tf.safetensors", {"format": "tf"})
    with pytest.raises(ValueError, match="weights of tf"):
        load_state_dict(tmp_path / "tf.safetensors")


def test_offloaded_weights_come_back(tmp_path):
    saved, model = trained(), empty()
    state = {name: tensor for name, tensor in saved.state_dict().items() if "norm" not in name}
    offload_state_dict(tmp_path, state)
    load_offloaded_weights(model, json.loads((tmp_path / "index.json").read_text()), tmp_path)
    assert torch.equal(model.head.weight, saved.head.weight)
    load_offloaded_weights(model, None, tmp_path)


MEASURE = """
import sys, threading
import torch
from torch import nn
from accelnb import init_empty_weights, load_checkpoint_in_model

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024

def model():
    return nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(24)))  # 96 MiB

folder, places, offloaded = sys.argv[1:4]
small = nn.Linear(2, 2)
torch.save(small.state_dict(), offloaded + "/small.bin")
load_checkpoint_in_model(small, offloaded + "/small.bin", {"": "cpu"})  # imports
with init_empty_weights():
    made = model()
ended, highest = threading.Event(), [0]
def look():
    while not ended.wait(0.0005):
        highest[0] = max(highest[0], anonymous())
before = anonymous()
thread = threading.Thread(target=look)
thread.start()
load_checkpoint_in_model(made, folder, {"": places}, offloaded, strict=True)
ended.set()
thread.join()
print((max(highest[0], anonymous()) - before) / (24 * (1024 * 1024 + 1024) * 4))
"""


@pytest.mark.alone
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for memory")
@pytest.mark.parametrize("safe", [True, False])
def test_the_peak_of_loading_is_what_stays(tmp_path, safe):
    model = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(24)))
    Accelerator().save_model(model, tmp_path, safe_serialization=safe)
    for places, limit in (("cpu", 1.05), ("disk", 0.1)):
        command = [sys.executable, "-c", MEASURE, str(tmp_path), places, str(tmp_path)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert float(ended.stdout) <= limit
