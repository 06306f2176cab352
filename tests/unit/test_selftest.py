"""The self-test of a configuration: what works is said, what fails is named, nothing is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psutil
import pytest
from click.testing import CliRunner
from harness import assert_ended, wait_until

from accelnb.cli.selftest import Step, self_test
from accelnb.cli.test import command
from accelnb.options.config import LaunchConfig, from_mapping


def _ranks() -> set[int]:
    """Return the ranks of this process: children of its fork server."""
    return {
        rank.pid
        for server in psutil.Process().children()
        for rank in server.children(recursive=True)
    }


def _test(
    at: str = "", fault: Callable[[set[int]], None] | None = None, **given: object
) -> tuple[list[Step], set[int]]:
    """Run a self-test, cause a fault when a step begins, return the steps and the ranks."""
    before, ranks, steps = _ranks(), set(), []
    config = from_mapping(LaunchConfig, {"device": "cpu", "procs": 2} | given)
    for step in self_test(config, _cancelled):
        steps.append(step)
        if step == Step("process group", "running"):
            ranks = _ranks() - before
        if step == Step(at, "running"):
            assert fault is not None
            fault(ranks)
    return steps, ranks


_cancelled = threading.Event()


def test_a_configuration_that_works_passes_each_step_with_its_options():
    mesh = {"mesh": "dp_replicate=2", "precision": "bf16", "accumulation": 2}
    steps, ranks = _test(**mesh)
    over = {step.name: step for step in steps if step.status != "running"}
    assert [step.status for step in over.values()] == ["ok"] * 9
    assert "2 ranks on cpu" in over["start"].detail
    assert "64 MiB" in over["bandwidth"].detail
    assert over["mesh"].detail.startswith("dp_replicate of 2: ")
    assert over["sharding"].detail.startswith("each rank holds 50% of a model; after 3 steps")
    assert "8 steps in bf16 (DDP)" in over["training"].detail
    assert len(ranks) == 2
    assert_ended(ranks)


def test_a_configuration_that_divides_models_trains_so():
    steps, _ = _test(strategy="fsdp")
    assert steps[-1] == Step("end", "ok", steps[-1].detail)
    training = next(step for step in steps if step.name == "training" and step.status == "ok")
    assert "8 steps in float32 (weights divided by FSDP)" in training.detail


def test_a_rank_that_ends_in_a_step_is_named_and_nothing_is_left():
    def kill(ranks: set[int]) -> None:
        psutil.Process(max(ranks)).kill()
        assert wait_until(lambda: not psutil.pid_exists(max(ranks)), 5)

    steps, ranks = _test("all_reduce", kill)
    assert steps[-1].status == "failed"
    assert steps[-1].name == "all_reduce"
    assert steps[-1].detail.startswith("rank 1 was killed by SIGKILL")
    assert "\n" not in steps[-1].detail
    assert_ended(ranks)


def test_a_test_that_is_cancelled_ends_at_once_and_leaves_nothing():
    begun = []

    def cancel(_: set[int]) -> None:
        begun.append(time.monotonic())
        _cancelled.set()

    try:
        steps, ranks = _test("bandwidth", cancel)
    finally:
        _cancelled.clear()
    assert steps[-1] == Step("bandwidth", "failed", "cancelled")
    assert time.monotonic() - begun[0] < 5
    assert_ended(ranks)


def test_the_command_reads_accelnb_yaml_and_its_exit_code_says_what_came_out(
    tmp_path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "accelnb.yaml").write_text("version: 1\nprocs: 1\ndevice: cpu\n")
    done = CliRunner().invoke(command, [])
    assert done.exit_code == 0
    assert "1 rank on cpu" in done.output
    failed = CliRunner().invoke(command, ["--device", "tpu"])
    assert failed.exit_code == 1
    assert "start" in failed.output
    assert "device=tpu: not found on this machine" in failed.output
