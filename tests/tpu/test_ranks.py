"""Ranks that torch_xla starts: one, and several processes of one host; no TPU is needed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness import Notebook, assert_ended, wait_until

from accelnb.engine.group import WorkerGroup
from accelnb.engine.launchers.local import fork_server
from accelnb.engine.run import Run
from accelnb.errors import AccelnbError
from accelnb.options.config import LaunchConfig

if importlib.util.find_spec("torch_xla") is None:
    pytest.skip("torch_xla is not installed here: make test-tpu", allow_module_level=True)

pytestmark = pytest.mark.timeout(400)  # torch_xla takes long to import where others work too

TWO = LaunchConfig(procs=2, device="xla", start="xla")


@pytest.fixture(scope="module")
def pair(two_chips: None) -> Iterator[WorkerGroup]:
    """Two ranks, each in a process of ``xmp.spawn``; nothing of them may be left afterwards."""
    group = WorkerGroup(TWO)
    yield group
    below = {p.pid for p in psutil.Process(fork_server().process.pid).children(recursive=True)}
    group.shutdown()
    assert_ended(below)


def begin(group: WorkerGroup, code: str) -> Run:
    cell = {"code": code, "source": code, "name": "<cell>", "number": 1}
    return group.run(
        "execute_request", {rank: ({"cell": cell, "result": True}, []) for rank in group.ranks}
    )


def values(group: WorkerGroup, code: str) -> list[Any]:
    run = begin(group, code)
    assert run.wait(60)
    return list(run.results())


def test_each_rank_has_its_number_its_main_thread_and_the_environment_of_its_chip(
    pair: WorkerGroup,
):
    code = (
        "import os, threading\n"
        "is_main = threading.current_thread() is threading.main_thread()\n"
        "names = 'RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'PJRT_LOCAL_PROCESS_RANK'\n"
        "rank, is_main, str(device), [os.environ[name] for name in names]"
    )
    assert values(pair, code) == [
        (0, True, "xla:0", ["0", "0", "2", "0"]),
        (1, True, "xla:0", ["1", "1", "2", "1"]),
    ]


def test_collectives_on_cpu_tensors_and_objects_go_between_ranks_on_xla(pair: WorkerGroup):
    code = (
        "import torch, torch.distributed as dist\n"
        "total, objects = torch.ones(2) * (rank + 1), [None, None]\n"
        "dist.all_reduce(total); dist.all_gather_object(objects, {'rank': rank})\n"
        "total.tolist(), objects, (torch.ones(2, device=device) + 1).tolist()"
    )
    assert values(pair, code) == [([3.0, 3.0], [{"rank": 0}, {"rank": 1}], [2.0, 2.0])] * 2


def test_output_is_heard_also_of_what_a_rank_starts(pair: WorkerGroup):
    run = begin(pair, "import os\nprint('from', rank)\n_ = os.system(f'echo below {rank}')")
    assert run.wait(30)
    for rank in pair.ranks:
        assert {f"from {rank}", f"below {rank}"} <= set(run.logs(rank).split("\n"))


@pytest.mark.parametrize(
    "wait",
    ["import time\ntime.sleep(60)", "import torch.distributed as dist\nif rank: dist.barrier()"
     "\nelse:\n    import time; time.sleep(60)"],
    ids=["asleep", "in a barrier"],
)  # fmt: skip
def test_an_interrupt_stops_the_ranks_and_their_variables_stay(pair: WorkerGroup, wait: str):
    values(pair, "kept = rank + 10")
    pids = [member.pid for member in pair.workers]
    run = begin(pair, f"print('begun', flush=True)\n{wait}")
    assert wait_until(lambda: all(begun(run, rank) for rank in pair.ranks), 30)
    run.interrupt()
    assert run.wait(10)
    assert {failure.ename for failure in run.failures} == {"KeyboardInterrupt"}
    assert pair.make_ready() == ()
    assert values(pair, "kept") == [10, 11]
    assert [member.pid for member in pair.workers] == pids


def begun(run: Run, rank: int) -> bool:
    return "begun" in run.logs(rank)


def test_when_a_rank_is_lost_all_are_replaced_for_they_must_start_together(pair: WorkerGroup):
    values(pair, "lost = 1")
    pids = {member.pid for member in pair.workers if member.pid}
    run = begin(pair, "print('begun', flush=True)\nimport time; time.sleep(60)")
    assert wait_until(lambda: all(begun(run, rank) for rank in pair.ranks), 30)
    os.kill(pair.workers[1].pid or 0, signal.SIGKILL)
    assert run.wait(10)
    said = {failure.rank: failure.evalue for failure in run.failures}
    assert "was killed by SIGKILL" in said[1]
    stopped = said[0] == ""  # where torch_xla was slow to end it
    assert stopped or "lost with rank 1" in said[0]
    assert pair.make_ready() == (0, 1)
    assert_ended(pids)
    assert values(pair, "rank, 'lost' in globals()") == [(0, False), (1, False)]


def test_a_chip_that_is_in_use_is_named_in_one_line(
    two_chips: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BUSY_CHIP", "1")
    with pytest.raises(AccelnbError) as refused:
        WorkerGroup(TWO)
    assert str(refused.value) == (
        "the ranks could not be started: RuntimeError: chip 1 is in use by another process"
    )


def test_nothing_is_left_when_the_notebook_is_killed(plugin_of_two_chips: Path, tmp_path: Path):
    program = (
        f"import sys, time; sys.path.append({str(plugin_of_two_chips)!r})\n"
        "from accelnb.options.config import LaunchConfig\n"
        "from accelnb.engine.group import WorkerGroup\n"
        "group = WorkerGroup(LaunchConfig(procs=2, device='xla', start='xla'))\n"
        "print([member.pid for member in group.workers], flush=True)\n"
        "time.sleep(300)"
    )
    notebook = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PJRT_DEVICE": "TWOCHIPS"},
        stdout=subprocess.PIPE,
    )
    assert notebook.stdout is not None
    try:
        ranks = set(json.loads(notebook.stdout.readline()))
        below = {p.pid for p in psutil.Process(notebook.pid).children(recursive=True)}
        assert ranks <= below
    finally:
        notebook.kill()
        notebook.wait(10)
    assert_ended(below)


def test_a_cell_runs_on_torch_xla_without_a_tpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PJRT_DEVICE", "CPU")
    notebook = Notebook(tmp_path)
    try:
        notebook.run("%load_ext accelnb")
        output = notebook.run(
            "%%distributed --device tpu --out results\n"
            "import torch, torch.distributed as dist\n"
            "x = torch.arange(3.0, device=device); dist.all_reduce(x)\n"
            "gathered = [torch.zeros(3, device=device)]; dist.all_gather(gathered, x * 2)\n"
            "print('on', device)\n"
            "x.tolist(), gathered[0].tolist(), dist.get_world_size()",
            timeout=300,
        )
        assert "on xla:0" in output.stdout
        assert notebook.run("results[0]").value == "([0.0, 1.0, 2.0], [0.0, 2.0, 4.0], 1)"
        refused = notebook.run("%%distributed --device tpu --procs 2\n1", fails=True)
        assert "procs=2: this machine has 1 xla device" in refused.error
        assert notebook.run("%distributed x.tolist()").stdout.strip().endswith("[0.0, 1.0, 2.0]")
        below = {process.pid for process in notebook.processes()}
    finally:
        notebook.close()
    assert_ended(below)


def test_a_single_rank_computes_on_all_devices_of_its_process_as_one(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("PJRT_DEVICE", "CPU")
    monkeypatch.setenv("CPU_NUM_DEVICES", "4")
    group = WorkerGroup(LaunchConfig(procs=1, device="xla", start="xla"))
    try:
        code = (
            "import torch, torch.distributed as dist\n"
            "from torch_xla import runtime\n"
            "x = torch.ones(2); dist.all_reduce(x)\n"
            "runtime.is_spmd(), runtime.global_runtime_device_count(), x.tolist(), "
            "(torch.ones(2, device=device) + 1).tolist()"
        )
        assert values(group, code) == [(True, 4, [1.0, 1.0], [2.0, 2.0])]
        (back,) = values(group, "torch.arange(3, device=device)")
        assert back.device.type == "cpu"  # a notebook need not have torch_xla
        assert back.tolist() == [0, 1, 2]
    finally:
        group.shutdown()


_TOPOLOGY = """
import json, os, sys
os.environ["PJRT_DEVICE"] = "CPU"
from torch_xla._internal import tpu
from accelnb.worker.xla_environment import for_several_processes
result = {}
for name, (recorded, chips) in json.loads(sys.argv[1]).items():
    for rank in range(chips):
        os.environ.clear()
        os.environ.update(for_several_processes({"TPU_SKIP_MDS_QUERY": "1", **recorded}))
        tpu.configure_topology(rank, chips)
        result.setdefault(name, []).append({n: v for n, v in os.environ.items() if "TPU" in n})
print(json.dumps(result))
"""
_HOSTS: dict[str, tuple[dict[str, str], int]] = {  # what they set for one process, and their chips
    "v2-8": ({"TPU_ACCELERATOR_TYPE": "v2-8", "TPU_WORKER_ID": "0"}, 4),
    "v3-8 of Kaggle": (
        {
            "TPU_ACCELERATOR_TYPE": "v3-8",
            "TPU_WORKER_ID": "0",
            "CLOUD_TPU_TASK_ID": "0",
            "TPU_PROCESS_ADDRESSES": "local",
            "TPU_CHIPS_PER_HOST_BOUNDS": "2,2,1",
            "TPU_HOST_BOUNDS": "1,1,1",
        },
        4,
    ),
    "v5e-8 of Kaggle": (
        {
            "TPU_ACCELERATOR_TYPE": "v5litepod-8",
            "TPU_WORKER_ID": "0",
            "TPU_PROCESS_ADDRESSES": "local",
            "TPU_PROCESS_BOUNDS": "1,1,1",
            "TPU_CHIPS_PER_PROCESS_BOUNDS": "2,4,1",
        },
        8,
    ),
}


@pytest.fixture(scope="module")
def topologies() -> dict[str, list[dict[str, str]]]:
    done = subprocess.run(
        [sys.executable, "-c", _TOPOLOGY, json.dumps(_HOSTS)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("host", "bounds"),
    [("v2-8", "2,2,1"), ("v3-8 of Kaggle", "2,2,1"), ("v5e-8 of Kaggle", "2,4,1")],
)
def test_every_process_of_a_host_gets_a_chip_and_an_address_of_its_own(
    topologies: dict[str, list[dict[str, str]]], host: str, bounds: str
):
    chips = _HOSTS[host][1]
    for rank, environment in enumerate(topologies[host]):
        assert environment["TPU_PROCESS_BOUNDS"] == bounds
        assert environment["TPU_CHIPS_PER_PROCESS_BOUNDS"] == "1,1,1"
        assert environment["TPU_VISIBLE_CHIPS"] == environment["CLOUD_TPU_TASK_ID"] == str(rank)
        addresses = environment["TPU_PROCESS_ADDRESSES"].split(",")
        assert addresses == [f"localhost:{8476 + at}" for at in range(chips)]
        assert environment["TPU_PROCESS_PORT"] == str(8476 + rank)
