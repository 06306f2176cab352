"""The one table of options: parsed, checked, resolved against the machine."""

from __future__ import annotations

import pytest

from accelnb.devices.hardware import Hardware
from accelnb.options.config import (
    CellOptions,
    ConfigError,
    LaunchConfig,
    check_known,
    from_mapping,
    options,
    possible,
    resolve,
    sharing,
    to_line,
)

TWO_GPUS = Hardware({"cpu": 8, "cuda": 2})
NO_GPU = Hardware({"cpu": 8})


@pytest.mark.parametrize(
    ("given", "machine", "procs", "device"),
    [
        ({}, NO_GPU, 2, "cpu"),
        ({}, TWO_GPUS, 2, "cuda"),
        ({"procs": "1"}, TWO_GPUS, 1, "cuda"),
        ({"device": "cpu", "procs": 5}, TWO_GPUS, 5, "cpu"),
        ({}, Hardware({"cpu": 8, "cuda": 8}), 8, "cuda"),
        ({"mesh": "dp_replicate=2,tp=2"}, NO_GPU, 4, "cpu"),
        ({"mesh": "none"}, NO_GPU, 2, "cpu"),
    ],
)
def test_what_is_left_out_is_taken_from_the_machine(given, machine, procs, device):
    config = resolve(from_mapping(LaunchConfig, given), machine)
    assert (config.procs, config.device, config.start) == (procs, device, "fork")


@pytest.mark.parametrize(
    ("given", "machine", "said"),
    [
        (
            {"procs": 3},
            TWO_GPUS,
            "procs=3: this machine has 2 cuda devices; use --procs 2 at most, --device cuda for",
        ),
        (
            {"device": "cuda"},
            NO_GPU,
            "device=cuda: not found on this machine; found 8 cpu: choose auto or cpu",
        ),
        (
            {"device": "tpu"},
            TWO_GPUS,
            "device=tpu: not found on this machine; found 2 cuda, 8 cpu: choose auto, cuda or cpu",
        ),
        ({"precision": "fp8"}, NO_GPU, "precision=fp8: cpu cannot; choose one of no, bf16, fp16"),
        ({"mesh": "tp=4", "procs": 2}, NO_GPU, "mesh=tp=4: has 4 places for 2 ranks; "),
        ({"mesh": "tp=4"}, TWO_GPUS, "mesh=tp=4: this machine has 2 cuda devices; "),
        ({"start": "fork", "device": "mps"}, Hardware({"mps": 1}), "start=fork: a rank on mps"),
        (
            {"device": "npu"},
            NO_GPU,
            "device=npu: not found on this machine; found 8 cpu: choose auto",
        ),
        (
            {"device": "gpu"},
            NO_GPU,
            "device=gpu: did you mean cuda? choose one of auto, cuda, rocm",
        ),
        ({"device": "trainium"}, NO_GPU, "device=trainium: did you mean neuron? choose one of"),
        ({"device": "CUDA"}, TWO_GPUS, "device=CUDA: did you mean cuda? choose one of auto"),
        ({"device": "cdua"}, TWO_GPUS, "device=cdua: did you mean cuda? choose one of auto"),
        ({"device": "abacus"}, TWO_GPUS, "device=abacus: choose one of auto, cuda, rocm"),
        (
            {"device": "cuda,cpu"},
            TWO_GPUS,
            "device=cuda,cpu: all ranks of a launch compute on one kind of device; choose one of",
        ),
        (
            {"device": "cuda:1"},
            TWO_GPUS,
            "device=cuda:1: each rank takes a device of its own: choose cuda, and which ones by "
            "CUDA_VISIBLE_DEVICES",
        ),
        (
            {"device": "cuda"},
            Hardware({"cpu": 8}, {"cuda": "1 NVIDIA GPU found, but torch is built for CPU only"}),
            "device=cuda: 1 NVIDIA GPU found, but torch is built for CPU only",
        ),
    ],
)
def test_what_the_machine_cannot_do_is_refused(given, machine, said):
    with pytest.raises(ConfigError) as error:
        resolve(from_mapping(LaunchConfig, given), machine)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_ranks_share_gpus_only_if_the_device_is_named_and_the_note_says_what_that_costs():
    shared = _resolved({"procs": "4", "device": "cuda"}, TWO_GPUS)
    assert shared.procs == 4
    assert "4 ranks share 2 cuda devices" in (sharing(shared, TWO_GPUS) or "")
    assert sharing(_resolved({"device": "cuda"}, TWO_GPUS), TWO_GPUS) is None
    assert sharing(_resolved({"procs": "9", "device": "cpu"}, TWO_GPUS), TWO_GPUS) is None


def test_ranks_on_tpus_are_all_of_one_machine_or_one():
    chips = Hardware({"cpu": 8, "xla": 8})
    with pytest.raises(ConfigError, match="procs=2: torch_xla uses one chip or all; use --procs 1"):
        _resolved({"procs": "2", "device": "tpu"}, chips)
    with pytest.raises(ConfigError, match="nodes=2: ranks on xla are on one machine"):
        _resolved({"nodes": "2", "device": "tpu", "cluster": "ray"}, chips)


def test_a_device_is_also_found_under_the_name_that_torch_users_give_it():
    assert _resolved({"device": "cuda"}, Hardware({"cpu": 8, "rocm": 2})).device == "rocm"
    assert _resolved({"device": "tpu"}, Hardware({"cpu": 8, "xla": 4})).start == "xla"


def test_devices_that_need_a_plugin_are_offered_where_they_are():
    assert from_mapping(LaunchConfig, {"device": "npu"}).device == "npu"
    usual = ["auto", "cuda", "rocm", "xpu", "mps", "cpu"]
    assert list(possible(LaunchConfig(), NO_GPU)["device"]) == usual
    assert "npu" in possible(LaunchConfig(device="npu"), NO_GPU)["device"]
    no_package = Hardware({"cpu": 8}, {"mlu": "1 Cambricon MLU found, but the package ..."})
    offered = possible(LaunchConfig(), no_package)["device"]
    assert list(offered) == [*usual[:4], "mlu", *usual[4:]]
    assert offered["mlu"] == no_package.unusable["mlu"]
    with_tpu = possible(LaunchConfig(), Hardware({"cpu": 8, "xla": 4}))["device"]
    assert with_tpu["tpu"] is None
    assert with_tpu["xla"] is None


def test_every_option_reads_its_own_default_and_refuses_nonsense():
    for option in options(LaunchConfig, CellOptions):
        assert option.read(option.default) == option.default
        if not option.is_switch:
            with pytest.raises(ConfigError, match=f"^{option.name}=%: "):
                option.read("%")


def test_ranks_are_read_as_lists_and_ranges():
    read = from_mapping(CellOptions, {"ranks": "0,2-4"})
    assert read.ranks == (0, 2, 3, 4)
    assert from_mapping(CellOptions, {"ranks": [3, 1]}).ranks == (1, 3)
    with pytest.raises(ConfigError, match="ranks=0-: must be ranks such as 0,2-3"):
        from_mapping(CellOptions, {"ranks": "0-"})


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="nope: no such option; options are procs, device"):
        check_known(["procs", "nope"], LaunchConfig)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tp=0", "mesh=tp=0: must be dimensions such as dp_shard=2,tp=2, each once, of"),
        ("tp=2,tp=2", "mesh=tp=2,tp=2: must be dimensions"),
        ("columns=2", "of pp, dp_replicate, dp_shard, cp, sp, tp"),
        ("tp", "mesh=tp: must be dimensions"),
    ],
)
def test_a_mesh_of_unknown_or_repeated_dimensions_is_refused(text, said):
    with pytest.raises(ConfigError) as error:
        from_mapping(LaunchConfig, {"mesh": text})
    assert said in str(error.value)


def _resolved(given: dict[str, str], machine: Hardware) -> LaunchConfig:
    return resolve(from_mapping(LaunchConfig, given), machine)


@pytest.mark.parametrize("machine", [TWO_GPUS, NO_GPU], ids=["gpus", "cpu"])
def test_a_choice_is_possible_if_and_only_if_it_is_accepted_and_the_reasons_are_the_same(machine):
    seen = set()
    for name, choices in possible(LaunchConfig(), machine).items():
        for choice, reason in choices.items():
            seen.add(reason is None)
            if reason is None:
                assert choice in ("auto", getattr(_resolved({name: choice}, machine), name))
                continue
            with pytest.raises(ConfigError) as error:
                _resolved({name: choice}, machine)
            assert str(error.value) == f"{name}={choice}: {reason}"
            assert error.value.option == name
    assert seen == {True, False}


def test_the_line_of_a_configuration_gives_that_configuration_and_nothing_needless():
    assert to_line(LaunchConfig()) == ""
    given = {"procs": 4, "mesh": "dp_replicate=2,tp=2", "strategy": "none", "timeout": 90}
    config = from_mapping(LaunchConfig, given)
    words = to_line(config).split()
    pairs = {flag.removeprefix("--"): text for flag, text in zip(*[iter(words)] * 2, strict=True)}
    assert pairs.keys() == given.keys()
    assert from_mapping(LaunchConfig, pairs) == config
