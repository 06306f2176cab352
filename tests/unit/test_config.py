"""The one table of options: parsed, checked, resolved against the machine."""

from __future__ import annotations

import pytest

from accelnb.config import (
    CellOptions,
    ConfigError,
    LaunchConfig,
    check_known,
    from_mapping,
    options,
    resolve,
)
from accelnb.hardware import Hardware

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
    ],
)
def test_what_is_left_out_is_taken_from_the_machine(given, machine, procs, device):
    config = resolve(from_mapping(LaunchConfig, given), machine)
    assert (config.procs, config.device, config.start) == (procs, device, "fork")


@pytest.mark.parametrize(
    ("given", "machine", "said"),
    [
        ({"procs": 3}, TWO_GPUS, "procs=3: this machine has 2 cuda devices; use --procs 2 at most"),
        ({"device": "cuda"}, NO_GPU, "device=cuda: not found on this machine; found 8 cpu"),
        ({"device": "tpu"}, TWO_GPUS, "device=tpu: not found on this machine; found 2 cuda, 8 cpu"),
        ({"precision": "fp8"}, NO_GPU, "precision=fp8: cpu cannot; choose one of no, bf16, fp16"),
    ],
)
def test_what_the_machine_cannot_do_is_refused(given, machine, said):
    with pytest.raises(ConfigError) as error:
        resolve(from_mapping(LaunchConfig, given), machine)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


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
