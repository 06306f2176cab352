"""What parts of a model take, and on which devices they are put."""

from __future__ import annotations

import random
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from accelnb import AccelnbError, infer_auto_device_map, init_empty_weights, init_on_device
from accelnb.big_model.device_maps import place_of
from accelnb.big_model.tied_parts import tied_to
from accelnb.utils import (
    CustomDtype,
    calculate_maximum_sizes,
    check_device_map,
    check_tied_parameters_on_same_device,
    clean_device_map,
    compute_module_sizes,
    convert_file_size_to_int,
    find_tied_parameters,
    get_balanced_memory,
    get_max_layer_size,
    get_max_memory,
    get_non_persistent_buffers,
    id_tensor_storage,
    named_module_tensors,
    retie_parameters,
)

pytestmark = pytest.mark.filterwarnings("ignore:max_memory. torch sees no accelerator")


class Block(nn.Module):
    """One of 64 + 72 + 100 = 236 bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.last = nn.Linear(4, 5)


def blocks(count: int = 3) -> Any:
    return nn.Sequential(*(Block() for _ in range(count)))


# ---- without memory ----


def test_empty_weights_take_no_memory_and_stay_tied():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(5, 4)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.words.weight
            self.norm = nn.BatchNorm1d(4)

    with init_empty_weights():
        model: Any = Tied()
    assert model.head.weight is model.words.weight
    assert model.head.weight.is_meta
    assert model.norm.weight.is_meta
    assert not model.norm.running_mean.is_meta
    with init_empty_weights(include_buffers=True):
        model = Tied()
    assert model.norm.running_mean.is_meta
    assert not Tied().head.weight.is_meta


def test_the_environment_says_whether_buffers_are_empty(monkeypatch):
    monkeypatch.setenv("ACCELERATE_INIT_INCLUDE_BUFFERS", "true")
    with init_on_device("meta"):
        norm: Any = nn.BatchNorm1d(4)
    assert norm.running_mean.is_meta


def test_a_failure_ends_it():
    with pytest.raises(RuntimeError, match="mine"), init_empty_weights():
        raise RuntimeError("mine")
    assert not nn.Linear(1, 1).weight.is_meta


# ---- sizes ----


def test_sizes_by_type():
    model = nn.Module()
    model.weight = nn.Parameter(torch.empty(10))
    model.register_buffer("mask", torch.ones(16, dtype=torch.bool))
    model.register_buffer("ids", torch.ones(3, dtype=torch.int64))
    assert compute_module_sizes(model) == {"": 80, "weight": 40, "mask": 16, "ids": 24}
    assert compute_module_sizes(model, dtype="float16")["weight"] == 20
    assert compute_module_sizes(model, dtype=torch.float64) == {
        "": 120,
        "weight": 80,
        "mask": 16,
        "ids": 24,
    }
    special = {"weight": CustomDtype.INT4}
    assert compute_module_sizes(model, torch.float16, special)["weight"] == 5
    assert compute_module_sizes(model, buffers_only=True)[""] == 40


def test_the_size_of_a_quantized_weight_is_what_it_really_takes():
    torchao = pytest.importorskip("torchao.quantization")
    layer = nn.Linear(64, 64, bias=False)
    torchao.quantize_(layer, torchao.Int8WeightOnlyConfig())
    assert 64 * 64 <= compute_module_sizes(layer)[""] < 64 * 64 * 1.2


def test_the_largest_layer():
    model = blocks(2)
    sizes = compute_module_sizes(model)
    modules = list(model.named_children())
    assert get_max_layer_size(modules, sizes, []) == (100, ["0.last", "1.last"])
    assert get_max_layer_size(modules, sizes, ["Block"]) == (236, ["0", "1"])
    model._no_split_modules = ["Block"]
    assert calculate_maximum_sizes(model) == (472, (236, ["0", "1"]))


@pytest.mark.parametrize(
    ("text", "size"),
    [("0MB", 0), ("1.5GB", 15 * 10**8), ("2GiB", 2**31), ("8Gb", 10**9), ("1 tb", 10**12 // 8)],
)
def test_sizes_as_people_say_them(text, size):
    assert convert_file_size_to_int(text) == size
    assert get_max_memory({"cpu": text}) == {"cpu": size}


@pytest.mark.parametrize("text", ["5MBB", "5k0MB", "-1GB", "7", "GB", "nanGB", -1])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(AccelnbError, match="is no size"):
        convert_file_size_to_int(text)


def test_memory_of_devices():
    free = get_max_memory()
    assert 0 < free["cpu"] < 2**50
    given = {"disk": 1, 3: 5, "cpu": "1KB", 0: "1KiB"}
    assert list(get_max_memory(given).items()) == [(0, 1024), (3, 5), ("cpu", 1000), ("disk", 1)]
    assert given["cpu"] == "1KB"
    with pytest.raises(AccelnbError, match="'gpu' is no device"):
        get_max_memory({"gpu": 1})


def test_tensors_that_share_memory():
    whole = torch.ones(4)
    assert id_tensor_storage(whole[1:]) == id_tensor_storage(whole.view(2, 2))
    assert id_tensor_storage(whole) != id_tensor_storage(whole.clone())


def test_buffers_that_are_not_saved():
    model = nn.Module()
    model.register_buffer("mask", torch.ones(1))
    model.part = nn.Module()
    model.part.register_buffer("mask", torch.ones(1), persistent=False)
    names = [name for name, _ in named_module_tensors(model, recurse=True)]
    assert names == ["mask", "part.mask"]
    kept = named_module_tensors(model, recurse=True, remove_non_persistent=True)
    assert [name for name, _ in kept] == ["mask"]
    assert get_non_persistent_buffers(model) == set()
    assert get_non_persistent_buffers(model, recurse=True) == {"mask"}
    assert get_non_persistent_buffers(model, recurse=True, fqns=True) == {"part.mask"}


# ---- maps ----


def test_maps_are_cleaned_and_looked_up():
    device_map = {"a.x": 0, "a.y": 0, "b.x.0": 1, "b.x.1": 1, "b.y": 2}
    assert clean_device_map(device_map) == {"a": 0, "b.x": 1, "b.y": 2}
    assert clean_device_map({"a": "cpu", "b.c": "cpu"}) == {"": "cpu"}
    assert place_of(device_map, "b.x.0.weight") == 1
    with pytest.raises(AccelnbError, match=r"no device for c\.weight"):
        place_of(device_map, "c.weight")


def test_a_map_has_to_name_all():
    model = blocks(1)
    with pytest.raises(ValueError, match=r"no device for 0.norm.weight, .* and 2 more"):
        check_device_map(model, {"0.first": 0, "0.last": 1})
    with pytest.warns(UserWarning, match="do not match any submodules in the model: missing"):
        check_device_map(model, {"0": 0, "missing": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_device_map(model, {"": "cpu"})
        check_device_map(nn.Linear(1, 1), {"weight": 0, "bias": "cpu"})


def test_tied_weights_on_different_devices():
    tied = [["0.last.weight", "1.last.weight"]]
    with pytest.warns(UserWarning, match="tied parameters are on different devices"):
        check_tied_parameters_on_same_device(tied, {"0": 0, "1": "cpu"})
    model = blocks(2).to("meta")
    model[1].last.weight = nn.Parameter(torch.ones(5, 4))
    retie_parameters(model, tied)
    assert model[0].last.weight is model[1].last.weight
    assert not model[0].last.weight.is_meta


@pytest.mark.parametrize(
    ("memory", "options", "expected"),
    [
        # The first keeps room for the largest layer, 100 bytes.
        ({0: 200, 1: 200}, {}, {"first": 0, "norm": 1, "last": 1}),
        ({0: 336}, {}, {"": 0}),
        ({0: 204}, {}, {"first": 0, "norm": "disk", "last": "disk"}),
        ({0: 204, "cpu": 10**6}, {}, {"first": 0, "norm": "cpu", "last": "cpu"}),
        ({0: 150}, {"dtype": "float16"}, {"": 0}),
        (
            {0: 200, 1: 236},
            {"no_split_module_classes": "Linear"},
            {"first": 0, "norm": 1, "last": 1},
        ),
    ],
)
def test_a_block_on_devices(memory, options, expected):
    assert infer_auto_device_map(Block(), memory, **options) == expected


def test_whole_blocks_and_tied_parts():
    assert infer_auto_device_map(blocks(), {0: 500, 1: 500}) == {
        "0": 0,
        "1.first": 0,
        "1.norm": 0,
        "1.last": 1,
        "2": 1,
    }
    whole = infer_auto_device_map(blocks(), {0: 500, 1: 500}, ["Block"])
    assert whole == {"0": 0, "1": 1, "2": 1}
    model = blocks()
    model[2].last.weight = model[0].last.weight
    found = infer_auto_device_map(model, {0: 400, 1: 500})
    assert found == {"0": 0, "2.last": 0, "1": 1, "2.first": 1, "2.norm": 1}


def test_a_buffer_beside_modules_has_a_device_too():
    model = Block()
    model.register_buffer("table", torch.ones(2))
    check_device_map(model, infer_auto_device_map(model, {0: 212, "cpu": 1000}))


def test_what_fits_is_looked_for_if_asked():
    model = nn.Sequential(nn.Linear(10, 4), nn.Linear(4, 4), nn.Linear(4, 8))
    assert infer_auto_device_map(model, {0: 256}) == {"": "disk"}
    found = infer_auto_device_map(model, {0: 256}, fallback_allocation=True)
    assert found == {"0": "disk", "1": 0, "2": "disk"}


def test_buffers_that_fit_nowhere_are_told(capsys):
    model = Block()
    model.last.register_buffer("large", torch.zeros(100))
    with pytest.warns(UserWarning, match="fit on no accelerator"):
        infer_auto_device_map(model, {0: 600, "cpu": "1GB"})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message="max_memory")
        infer_auto_device_map(model, {0: 600, "cpu": "1GB"}, offload_buffers=True, verbose=True)
    assert "Putting ['first'] on 0" in capsys.readouterr().out


def test_balance():
    model = Block()
    assert get_balanced_memory(model, {0: 300, 1: 300}) == {0: 215, 1: 300}
    assert get_balanced_memory(model, {0: 300, "cpu": 1000}) == {0: 300, "cpu": 1000}
    assert get_balanced_memory(model, {0: 0, 2: 300, 5: 300}) == {0: 0, 2: 215, 5: 300}
    assert get_balanced_memory(blocks(), {1: 900, 4: 400, 6: 400}, low_zero=True) == {
        1: 0,
        4: 400,
        6: 400,
    }
    assert get_balanced_memory(blocks(), {1: 900, 4: 300}, low_zero=True) == {1: 408, 4: 300}


def test_parts_are_tied_through_others():
    model = blocks(5)
    model[1].last.weight = model[0].last.weight
    model[2].first.weight = model[1].first.weight
    parts = list(model.named_children())[1:]
    tied = find_tied_parameters(model)
    assert [name for name, _ in tied_to("0", parts, tied)] == ["1", "2"]
    found = infer_auto_device_map(model, {0: 580 + 236, 1: 472}, ["Block"])
    assert found == {"0": 0, "1": 0, "2": 0, "3": 1, "4": 1}


def random_model(random: random.Random, depth: int = 0) -> Any:
    if depth < 3 and (depth == 0 or random.random() < 0.5):
        parts = (random_model(random, depth + 1) for _ in range(random.randint(1, 4)))
        return nn.Sequential(*parts)
    if random.random() < 0.2:
        return nn.BatchNorm1d(random.randint(1, 9), device="meta")
    return nn.Linear(random.randint(1, 3), random.randint(1, 3), device="meta")


def tie_what_fits(model: nn.Module) -> None:
    first: dict[torch.Size, nn.Linear] = {}
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight = first.setdefault(layer.weight.shape, layer).weight


@pytest.mark.parametrize("fallback", [False, True])
def test_maps_are_those_of_accelerate(fallback):
    theirs = pytest.importorskip("accelerate.utils")
    for seed in range(60):
        draw = random.Random(seed)
        model = random_model(draw)
        total = compute_module_sizes(model)[""]
        memory: Any = {number: int(total * draw.uniform(0.1, 1)) for number in range(3)}
        memory["cpu"] = int(total * draw.uniform(0.1, 1))
        options = {"fallback_allocation": fallback, "offload_buffers": True}
        expected = theirs.infer_auto_device_map(model, dict(memory), **options)
        assert infer_auto_device_map(model, memory, **options) == dict(expected)
        balanced = theirs.get_balanced_memory(model, dict(memory), low_zero=fallback)
        assert get_balanced_memory(model, memory, low_zero=fallback) == balanced


def test_no_device_gets_too_much_and_ties_stay_together():
    for seed in range(60):
        draw = random.Random(seed)
        model = random_model(draw)
        tie_what_fits(model)
        total = compute_module_sizes(model)[""]
        memory: Any = {number: int(total * draw.uniform(0.1, 1)) for number in range(3)}
        device_map = infer_auto_device_map(model, memory, offload_buffers=True)
        check_device_map(model, device_map)
        for group in find_tied_parameters(model):
            assert len({place_of(device_map, name) for name in group}) == 1
        taken = dict.fromkeys([*memory, "disk"], 0)
        for name, tensor in named_module_tensors(model, recurse=True):
            taken[place_of(device_map, name)] += tensor.nbytes
        assert all(taken[number] <= memory[number] for number in memory)
