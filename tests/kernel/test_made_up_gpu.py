"""A notebook on a machine with one GPU, which is made up: its ranks compute on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Notebook, assert_ended, children

# Read by every Python that starts: the kernel, the fork server, spawned ranks.
MACHINE = """
import dataclasses
import accelnb.devices.hardware
from accelnb.devices import DEVICES
from accelnb.devices.hardware import Hardware

made_up = {"type": "cpu", "backend": "gloo", "kind": "MULTI_CPU", "aborts": False, "meter": ""}
DEVICES["cuda"] = dataclasses.replace(DEVICES["cuda"], **made_up)
accelnb.devices.hardware.probe = lambda: Hardware({"cpu": 8, "cuda": 1})
"""
RANKS = "%%distributed {}\nimport os\nos.getpid(), world_size"


@pytest.fixture
def with_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    (tmp_path / "sitecustomize.py").write_text(MACHINE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    notebook = Notebook(tmp_path)
    try:
        notebook.load()
        yield notebook
        below = {process.pid for process in children(notebook)}
    finally:
        notebook.close()
    assert_ended(below)


def test_ranks_share_the_gpu_only_where_a_cell_names_it(with_gpu: Notebook, tmp_path: Path):
    run = with_gpu.run
    (one,) = run(RANKS.format("")).lines
    for line in ("--procs 2", "--procs 2 --fresh", "--start spawn --procs 2"):
        error = run(RANKS.format(line), fails=True).error
        assert "procs=2: this machine has 1 cuda device; use --procs 1 at most, --device" in error
    assert run(RANKS.format("")).lines == [one]  # nothing was ended

    shared = run(RANKS.format("--device cuda --procs 2"))
    assert "2 ranks share 1 cuda device" in shared.stderr
    assert sorted(run(RANKS.format("")).lines) == sorted(shared.lines)
    assert sorted(run(RANKS.format("--procs 2")).lines) == sorted(shared.lines)
    assert "procs=3: this machine has 1" in run(RANKS.format("--procs 3"), fails=True).error

    (tmp_path / "accelnb.yaml").write_text("version: 1\ndevice: cuda\n")
    assert "3 ranks share 1 cuda device" in run(RANKS.format("--procs 3")).stderr
