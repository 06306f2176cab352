"""A kernel of `accelnb kernel install`, started as Jupyter starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from click.testing import CliRunner, Result
from harness import assert_ended, without_colours
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from accelnb.cli.kernel import command

AUTO_CELLS = """\
%load_ext accelnb
import torch
import torch.distributed as dist
total = torch.tensor(rank + 1)
dist.all_reduce(total)
print("total", total.item())
---
%%local
here = "of the notebook"
print("rank" in globals(), here)
---
f"{here}, sent to {world_size}"
---
def broken():
    return 1 / (rank - 1)
if world_size:
    broken()
---
%%local
import subprocess
1 / 0
---
%%time
print("timed", total.item())
---
# a comment, so nothing for the ranks
---
%accelnb status
---
total?
---
%accelnb auto off
---
"rank" in globals()
"""


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where Jupyter looks for this user's kernels."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def accelnb_kernel(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def run_cells(kernel: str, cells: Sequence[str], folder: Path) -> list[Any]:
    """Run a notebook headless in an installed kernel; return the outputs of its cells."""
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    manager = KernelManager(kernel_name=kernel)
    manager.start_kernel(cwd=str(folder))
    running = psutil.Process(manager.provisioner.pid)  # type: ignore[union-attr]
    try:
        NotebookClient(notebook, km=manager, timeout=60, allow_errors=True).execute()
    finally:
        below = {process.pid for process in [running, *running.children(recursive=True)]}
        manager.shutdown_kernel(now=True)
        assert_ended(below)
    return [cell.outputs for cell in notebook.cells]


def text(outputs: list[Any]) -> str:
    """Return all that a cell shows, without colours."""
    parts = []
    for output in outputs:
        data = output.get("data", {}).get("text/plain", "")
        parts.append(output.get("text", "") + data + "\n".join(output.get("traceback", ())))
    return without_colours("\n".join(parts))


def test_a_kernel_runs_every_cell_on_its_ranks_but_for_local_ones(data_folder: Path):
    where = ["--user", "--name", "everywhere", "--display-name", "On two ranks"]
    start = [sys.executable, "-m", "accelnb", "kernel", "install", "--procs", "2", "--auto"]
    subprocess.run([*start, *where], check=True, timeout=30, capture_output=True, env=os.environ)
    spec = KernelSpecManager().get_kernel_spec("everywhere")
    assert spec.display_name == "On two ranks"
    assert {"logo-32x32.png", "logo-64x64.png", "logo-svg.svg"} <= set(
        os.listdir(spec.resource_dir)
    )

    total, local, sent, broken, broken_here, timed, nothing, status, helped, _, off = map(
        text, run_cells("everywhere", AUTO_CELLS.split("---\n"), data_folder)
    )
    assert "total 3" in total
    assert "False of the notebook" in local
    assert sent.count("of the notebook, sent to 2") == 1
    assert "Cell In[4], line 2" in broken
    assert "Cell In[4], line 4" in broken
    assert "rank 1" in broken
    assert "ZeroDivisionError" in broken
    assert "Cell In[5], line 3" in broken_here
    assert "rank" not in broken_here
    assert "timed 3" in timed
    assert "Wall time" in timed
    assert nothing == ""
    assert status.startswith("2 ranks on cpu")
    assert "not found" not in helped
    assert "False" in off


def test_the_kernels_options_are_defaults_and_ranks_start_before_a_cell(data_folder: Path):
    assert accelnb_kernel("install", "--user", "--procs", "3", "--precision", "bf16").exit_code == 0
    Path(data_folder, "accelnb.yaml").write_text("version: 1\nprecision: fp16\n")
    wait = (
        "import threading\n"
        "[t.join(60) for t in threading.enumerate() if t.name == 'accelnb-early-start']"
    )
    read = "%distributed __import__('os').environ['ACCELERATE_MIXED_PRECISION']"
    _, status, precision = map(
        text, run_cells("accelnb", [wait, "%accelnb status", read], data_folder)
    )
    assert status.startswith("3 ranks on cpu")
    assert "fp16" in precision  # of accelnb.yaml, which goes before the kernel


def test_ranks_that_cannot_start_are_told_at_the_first_cell_for_them(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert accelnb_kernel("install", "--user", "--procs", "2").exit_code == 0
    Path(tmp_path, "torch.py").write_text("raise ImportError('no torch today')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    plain, outputs = run_cells("accelnb", ["'fine'", "%distributed rank"], data_folder)
    assert "fine" in text(plain)
    assert outputs[-1].ename == "AccelnbError"
    assert "no torch today" in outputs[-1].evalue


def test_wrong_options_of_an_old_kernel_are_told_and_not_used(data_folder: Path):
    assert accelnb_kernel("install", "--user").exit_code == 0
    file = data_folder / "kernels/accelnb/kernel.json"
    spec = json.loads(file.read_text())
    file.write_text(json.dumps(spec | {"argv": [*spec["argv"], "--precision", "fp12"]}))
    first, second = run_cells("accelnb", ["1 + 1", "2 + 2"], data_folder)
    assert "precision=fp12: choose one of" in text(first)
    assert "2" in text(first)
    assert text(second) == "4"


def test_kernels_are_listed_and_removed_and_wrong_input_writes_nothing(data_folder: Path):
    for wrong, says in {
        ("--precision", "fp12"): "precision=fp12",
        ("--device", "cuda", "--procs", "99"): "cuda",
        ("--name", "a b"): "name=a b",
        ("--prefix", "/proc/nowhere"): "cannot be written",
    }.items():
        result = accelnb_kernel("install", *wrong)
        assert says in str(result.exception)
    assert accelnb_kernel("install", "--user", "--prefix", "/tmp").exit_code == 2
    assert not data_folder.exists()

    assert accelnb_kernel("install", "--user", "--name", "two", "--procs", "2").exit_code == 0
    assert "--procs 2" in accelnb_kernel("list").output
    assert "no such kernel of accelnb" in str(accelnb_kernel("remove", "python3").exception)
    assert accelnb_kernel("remove", "two").exit_code == 0
    assert not (data_folder / "kernels/two").exists()
