"""Values between the notebook and its ranks: what they keep, what they cost."""

from __future__ import annotations

import os

import psutil
import pytest


def test_values_arrive_as_they_were_on_the_rank(shared_notebook):
    run = shared_notebook.run
    run(
        """%%distributed --pull values
import numpy as np, torch
linear = torch.nn.Linear(300, 300)
tied = torch.nn.ModuleList([linear, torch.nn.Linear(300, 300)])
tied[1].weight = tied[0].weight
base = torch.arange(90_000.).reshape(300, 300)
values = {
    "bf16": torch.ones(3).bfloat16() * rank, "fp8": torch.ones(70_000).to(torch.float8_e4m3fn),
    "complex": torch.tensor([1 + 2j]), "bool": torch.tensor([True, False]),
    "quantized": torch.quantize_per_tensor(torch.ones(4), 0.5, 0, torch.qint8),
    "sparse": torch.eye(3).to_sparse(), "empty": torch.empty(0, 5), "scalar": torch.tensor(2.5),
    "base": base, "view": base[::2, 1:], "needs_grad": torch.ones(2, requires_grad=True),
    "tied": tied, "state": linear.state_dict(), "array": np.arange(12).reshape(3, 4)[:, ::2],
    "nested": [(1, {"deep": torch.ones(1)})],
}"""
    )
    run(
        """import torch, numpy as np
v = values[1]
assert torch.equal(v["bf16"], torch.ones(3).bfloat16())
assert v["fp8"].dtype == torch.float8_e4m3fn and v["fp8"].float().sum() == 70_000
assert v["complex"][0] == 1 + 2j and v["bool"].tolist() == [True, False]
assert v["quantized"].dequantize().tolist() == [1, 1, 1, 1]
assert v["sparse"].is_sparse and v["empty"].shape == (0, 5) and v["scalar"] == 2.5
assert v["view"].stride() == (600, 1) and v["view"][1, 0] == 601
v["base"].zero_()
assert v["view"].sum() == 0
assert v["needs_grad"].requires_grad
assert v["tied"][0].weight is v["tied"][1].weight
assert isinstance(v["tied"][0].weight, torch.nn.Parameter)
assert v["state"]["weight"].shape == (300, 300)
assert v["array"].tolist() == [[0, 2], [4, 6], [8, 10]]
assert v["nested"][0][1]["deep"] == 1"""
    )
    run("del values, v")


def test_a_dtensor_comes_whole_and_only_from_all_its_ranks(shared_notebook):
    run = shared_notebook.run
    run(
        """%%distributed --out whole
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
mesh = init_device_mesh("cpu", (2,))
sharded = distribute_tensor(torch.arange(8.), mesh, [Shard(0)])
sharded"""
    )
    assert run("whole[0].tolist() == whole[1].tolist() == list(range(8))").value == "True"
    said = run("%accelnb pull sharded --ranks 0", fails=True).error
    assert "a DTensor over the ranks [0, 1] is gathered by all of them, but only [0]" in said


def test_a_captured_tensor_is_in_memory_once_and_a_change_stays_on_its_rank(notebook):
    size = 64 << 20
    notebook.run(f"import torch\nbig, scale = torch.ones({size // 4}), 1")
    # From here on rank 0 lacks less than the others.
    notebook.run("%distributed --procs 3 --ranks 0 scale;")
    _, *ranks = notebook.processes()
    before = _private(ranks)
    notebook.run("%distributed float(big.sum()) * scale")
    assert _private(ranks) - before < 0.5 * size
    private = _private(ranks)
    notebook.run("%distributed --ranks 1 big.add_(1)[0].item()")
    assert notebook.run("%distributed big[-1].item()").lines == ["[0,2] 1.0", "[1] 2.0"]
    assert notebook.run("big[0].item()").value == "1.0"
    # Only rank 1 has taken pages of its own.
    assert 0.8 * size < _private(ranks) - private < 1.5 * size


def test_a_thousand_pulls_leave_nothing(shared_notebook):
    run = shared_notebook.run
    run("%%distributed\nimport torch\nw = torch.ones(1 << 18)  # 1 MiB")
    run("import accelnb")
    run("for _ in range(50): accelnb.pull('w')[0]")
    processes = [psutil.Process(shared_notebook.pid), *shared_notebook.processes()]
    fds = [process.num_fds() for process in processes]
    memory = [process.memory_info().rss for process in processes]
    run("for _ in range(1000): value = accelnb.pull('w')[1]\nvalue = None", timeout=100)
    assert [process.num_fds() for process in processes] == fds
    for process, before in zip(processes, memory, strict=True):
        assert process.memory_info().rss - before < 48 << 20
    assert not [name for name in os.listdir("/dev/shm") if "accelnb" in name]


def test_values_need_no_memfd(notebook, tmp_path, monkeypatch):
    notebook.run(
        "import os, tempfile, torch\ndel os.memfd_create\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\nbig = torch.ones(1 << 20)"
    )
    notebook.run(
        "%%distributed --procs 2 --out back\nimport os, tempfile\n"
        f"del os.memfd_create\ntempfile.tempdir = {str(tmp_path)!r}\nbig * 2"
    )
    assert notebook.run("back[1].sum().item() == 2 << 20").value == "True"
    assert not list(tmp_path.glob("accelnb-*"))


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("%%distributed --pull lines\nlines = (i for i in range(3))", "the variable lines is a "
         "generator, which cannot be brought back"),
        ("handle = open('/dev/null')\naccelnb.push('handle')", "handle, a TextIOWrapper, which"),
    ],
)  # fmt: skip
def test_what_cannot_travel_is_named_and_the_ranks_go_on(shared_notebook, cell, said):
    shared_notebook.run("import accelnb")
    shared_notebook.run("%distributed globals().update(kept=1)")
    assert said in shared_notebook.run(cell, fails=True).error
    assert shared_notebook.run("%distributed kept").lines == ["[0-1] 1"]


def _private(processes: list[psutil.Process]) -> int:
    return sum(process.memory_full_info().uss for process in processes)
