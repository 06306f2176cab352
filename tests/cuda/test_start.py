"""Ranks on CUDA start whatever the notebook did before, each on its own device."""

from __future__ import annotations

import ast
import os

import psutil
import torch
from harness import Notebook

ONE = "%%distributed --procs 1 --device cuda --out one\nimport torch\n"


def test_ranks_start_although_the_notebook_itself_uses_cuda(tmp_path):
    notebook = Notebook(tmp_path)
    try:
        notebook.run("import torch\nx = torch.ones(4, device='cuda'); torch.cuda.synchronize()")
        notebook.load()
        notebook.run(f"{ONE}(torch.ones(2, device=device).sum().item(), device.index)")
        assert notebook.run("one[0]").value == "(2.0, 0)"
    finally:
        notebook.close()


def test_the_fork_server_has_no_device_and_ranks_are_forked(ranks):
    server = ranks.notebook.processes()[0]
    held = [os.readlink(file) for file in _descriptors(server.pid)]
    assert not [file for file in held if "nvidia-uvm" in file]
    assert all(parent == server.pid for parent in ranks.values("os.getppid()"))


def _descriptors(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    return [f"{folder}/{fd}" for fd in os.listdir(folder) if psutil.pid_exists(pid)]


def test_each_rank_has_the_device_of_its_local_rank(ranks):
    count = torch.cuda.device_count()
    assert ranks.values("torch.cuda.current_device(), device.index, device.type") == [
        (rank % count, rank % count, "cuda") for rank in range(2)
    ]


def test_collectives_of_ranks_with_a_gpu_each_go_through_nccl(two_gpus, ranks):
    assert (
        ranks.values(
            "group = dist.distributed_c10d._get_default_group()\n"
            "t = torch.ones(3, device=device) * (rank + 1); dist.all_reduce(t)\n"
            "group._get_backend(device).name(), t.tolist()"
        )
        == [("nccl", [3.0] * 3)] * 2
    )


def test_collectives_on_the_cpu_work_beside_those_on_the_gpu(ranks):
    assert (
        ranks.values(
            "on_cpu, on_gpu = torch.ones(1), torch.ones(1, device=device)\n"
            "dist.all_reduce(on_cpu); dist.all_reduce(on_gpu)\n"
            "everything = [None, None]; dist.all_gather_object(everything, rank)\n"
            "dist.barrier(); (on_cpu.item(), on_gpu.item(), everything)"
        )
        == [(2.0, 2.0, [0, 1])] * 2
    )


def test_more_ranks_than_gpus_are_refused_unless_the_device_is_named(notebook):
    count = torch.cuda.device_count()
    for before in ("", "%distributed device", "%distributed --device cuda device"):
        notebook.run(before, timeout=100)
        error = notebook.run(f"%%distributed --procs {count + 1}\nrank", fails=True).error
        assert f"procs={count + 1}: this machine has {count} cuda device" in error
        assert "--device cuda for ranks that share one" in error
    output = notebook.run(
        f"%%distributed --procs {count + 1} --device cuda --out sums\n"
        "import torch, torch.distributed as dist\n"
        "t = torch.ones(1, device=device); dist.all_reduce(t); (t.item(), dist.get_backend())",
        timeout=100,
    )
    assert f"{count + 1} ranks share {count} cuda device" in output.stderr
    sums = ast.literal_eval(notebook.run("list(sums)").value)
    assert sums == [(count + 1.0, "gloo")] * (count + 1)


def test_the_devices_that_the_notebook_makes_visible_are_those_of_new_ranks(two_gpus, notebook):
    notebook.run(f"{ONE}str(torch.cuda.get_device_properties(0).uuid)")
    first = notebook.run("one[0]").value
    notebook.run("import os; os.environ['CUDA_VISIBLE_DEVICES'] = '1'")
    cell = f"{ONE}torch.cuda.device_count(), str(torch.cuda.get_device_properties(0).uuid)"
    notebook.run(cell.replace("--procs", "--fresh --procs"))
    count, second = ast.literal_eval(notebook.run("one[0]").value)
    assert count == 1
    assert second != first.strip("'")
