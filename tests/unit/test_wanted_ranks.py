"""What one cell after another asks for, on machines that are made up here."""

from __future__ import annotations

from typing import Any

import pytest

from accelnb.devices.hardware import Hardware
from accelnb.notebook.wanted_ranks import Asked, asked_by
from accelnb.options.config import ConfigError, LaunchConfig, resolve

ONE_GPU = Hardware({"cpu": 8, "cuda": 1})
FOUR_GPUS = Hardware({"cpu": 8, "cuda": 4})
NO_GPU = Hardware({"cpu": 8})
ONE_AMD = Hardware({"cpu": 8, "rocm": 1})
WITH_MPS = Hardware({"cpu": 8, "mps": 1})
SHARED = {"device": "cuda", "procs": 2}


def ran(
    machine: Hardware, *cells: dict[str, Any], defaults: LaunchConfig | None = None
) -> LaunchConfig:
    """Return the ranks that the last cell runs on."""
    before: Asked | None = None
    there: LaunchConfig | None = None
    for given in cells:
        before = asked_by(given, defaults or LaunchConfig(), before, there)
        there = resolve(before.config, machine, names_device=before.names_device)
    assert there is not None
    return there


@pytest.mark.parametrize(
    ("machine", "cells", "expected"),
    [
        # A plain cell, and one that asks for what is there, run on the ranks that are there.
        (ONE_GPU, [SHARED, {}], (2, "cuda", "fork")),
        (ONE_GPU, [SHARED, {"procs": 2}], (2, "cuda", "fork")),
        (NO_GPU, [{"procs": 4}, {"precision": "bf16"}], (4, "cpu", "fork")),
        # What was automatic is so again on another device.
        (ONE_GPU, [{}, {"device": "cpu"}], (2, "cpu", "fork")),
        (ONE_GPU, [{"device": "cpu"}, {"device": "cuda"}], (1, "cuda", "fork")),
        (FOUR_GPUS, [{}, {"device": "cpu"}], (2, "cpu", "fork")),
        (WITH_MPS, [{"device": "cpu"}, {"device": "mps"}], (1, "mps", "spawn")),
        # What was chosen for one device is not for another.
        (ONE_GPU, [{"device": "cpu", "procs": 4}, {"device": "cuda"}], (1, "cuda", "fork")),
        (
            WITH_MPS,
            [{"device": "cpu", "procs": 4, "start": "fork"}, {"device": "mps"}],
            (1, "mps", "spawn"),
        ),
        # The rest of what was asked for holds.
        (FOUR_GPUS, [{"procs": 3}, {"start": "spawn"}], (3, "cuda", "spawn")),
        (FOUR_GPUS, [{"start": "spawn"}, {"procs": 3}], (3, "cuda", "spawn")),
        (ONE_GPU, [{"device": "cpu"}, {"procs": 3}], (3, "cpu", "fork")),
        (ONE_GPU, [SHARED, {"device": "cuda", "start": "spawn"}], (2, "cuda", "spawn")),
        (ONE_GPU, [{}, {"device": "cuda", "procs": 2}], (2, "cuda", "fork")),
        (ONE_AMD, [SHARED | {"start": "spawn"}, {"device": "cuda"}], (2, "rocm", "spawn")),
    ],
)
def test_what_a_cell_leaves_out_is_as_it_was_asked_for_before(machine, cells, expected):
    config = ran(machine, *cells)
    assert (config.procs, config.device, config.start) == expected


@pytest.mark.parametrize(
    "cells",
    [
        [{"procs": 2}],
        [{}, {"procs": 2}],
        [{"procs": 1}, {"procs": 2}],
        [{"device": "cuda"}, {"procs": 2}],
        [{"device": "cuda"}, {}, {"procs": 2}],
        [SHARED, {"procs": 3}],
        [SHARED, {"start": "spawn"}],
        [{}, {"mesh": "tp=2", "procs": 2}],
        [{"device": "cuda"}, {"device": "auto", "procs": 2}],
    ],
)
def test_ranks_share_a_gpu_only_if_the_cell_names_it_whatever_ran_before(cells):
    with pytest.raises(
        ConfigError, match=r"procs=.: this machine has 1 cuda device; use --procs 1"
    ):
        ran(ONE_GPU, *cells)
    if cells[-1].get("device") != "auto":
        assert (ran(ONE_GPU, *cells, defaults=LaunchConfig(device="cuda")).procs or 0) > 1


def test_nodes_are_those_of_their_cluster():
    there = LaunchConfig(procs=4, device="cpu", cluster="ray://head:10001", nodes=2, start="spawn")
    given = {"procs": 4, "device": "cpu", "cluster": "ray://head:10001", "nodes": 2}
    before = asked_by(given, LaunchConfig())
    assert asked_by({}, LaunchConfig(), before, there).config == there
    assert asked_by({"cluster": "local"}, LaunchConfig(), before, there).config == LaunchConfig()
    on_gpus = asked_by({"device": "cuda"}, LaunchConfig(), before, there).config
    assert (on_gpus.nodes, on_gpus.cluster, on_gpus.procs) == (2, there.cluster, None)


def test_when_the_defaults_change_the_ranks_that_are_there_no_longer_count():
    before = asked_by({"procs": 4}, LaunchConfig())
    there = resolve(before.config, NO_GPU)
    now = LaunchConfig(procs=3)
    assert asked_by({}, now, before, there).config == now
    precise = LaunchConfig(precision="bf16")
    assert asked_by({}, precise, before, there).config.procs == 4
