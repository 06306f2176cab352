"""Ranks where torch_tpu is installed and there is no TPU, and its launch environment."""

from __future__ import annotations

import importlib.util
import time

import pytest

from accelnb.devices.hardware import probe
from accelnb.engine.group import WorkerGroup
from accelnb.engine.launchers.tpu_environment import launch_environment
from accelnb.errors import AccelnbError
from accelnb.options.config import ConfigError, LaunchConfig, resolve

if importlib.util.find_spec("torch_tpu") is None:
    pytest.skip("torch_tpu is not installed here: make test-tpu", allow_module_level=True)

pytestmark = pytest.mark.timeout(300)  # torch is imported by one process after another

_BACKWARD = """
import os, sys, time, torch
begin = time.monotonic()
model = torch.nn.Linear(4, 4)
model(torch.ones(2, 4)).sum().backward()
(time.monotonic() - begin, model.bias.grad.tolist(), "torch_tpu" in sys.modules,
 os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD"))
"""


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_ranks_on_the_cpu_do_not_load_torch_tpu_which_would_stall_them(start: str):
    group = WorkerGroup(LaunchConfig(procs=2, device="cpu", start=start))
    try:
        cell = {"code": _BACKWARD, "source": _BACKWARD, "name": "<cell>", "number": 1}
        request = {"cell": cell, "result": True}
        run = group.run("execute_request", {rank: (request, []) for rank in group.ranks})
        assert run.wait(60)
        for seconds, gradient, is_loaded, autoload in run.results():
            assert seconds < 10
            assert gradient == [2.0] * 4
            assert not is_loaded
            assert autoload is None  # the environment is the notebook's again
    finally:
        group.shutdown()


def test_the_ranks_of_a_v5e_8_get_an_address_each(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_TPU_TOPOLOGY", "2,4,1")
    environment = launch_environment(LaunchConfig(procs=8, device="tpu", start="spawn"))
    addresses = environment["TORCH_TPU_SLICEBUILDER_ADDRESSES"].split(",")
    assert len(set(addresses)) == 8
    assert all(address.startswith("localhost:") for address in addresses)
    assert environment["TORCH_TPU_XPROF_SESSION_ID"].isdecimal()
    assert environment["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "1"


def test_without_a_tpu_the_refusal_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TORCH_TPU_TOPOLOGY", raising=False)
    with pytest.raises(ConfigError, match="device=tpu: not found on this machine") as refused:
        resolve(LaunchConfig(device="tpu"), probe())
    assert "\n" not in str(refused.value)
    begin = time.monotonic()
    with pytest.raises(AccelnbError, match="expected TPU devices, got none") as failed:
        launch_environment(LaunchConfig(procs=8, device="tpu", start="spawn"))
    assert "\n" not in str(failed.value)
    assert time.monotonic() - begin < 100
