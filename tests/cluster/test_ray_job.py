"""The script that `accelnb export --ray` writes, submitted to a real Ray cluster."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from harness import wait_until

from accelnb.export import export_notebook

# Starting a cluster takes all of a small machine, and a while.
pytestmark = [pytest.mark.alone, pytest.mark.timeout(300)]

BIN = Path(sys.executable).parent
ON_PATH = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}  # as in an activated environment
CELL = """%%distributed --procs 2 --device cpu
import torch, torch.distributed as dist
total = torch.ones(1) + rank
dist.all_reduce(total)
print(f"rank {rank}: {total.item():g}")"""


@pytest.fixture
def dashboard() -> Iterator[str]:
    """Give the address where a cluster of one node takes jobs."""
    port, jobs = free_port(), free_port()
    command = ["start", "--head", "--block", "--include-dashboard=true", "--num-cpus=2"]
    command += [f"--port={port}", f"--dashboard-port={jobs}", "--disable-usage-stats"]
    with subprocess.Popen(
        [BIN / "ray", *command],
        env=ON_PATH,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as head:
        try:
            assert wait_until(lambda: is_open(jobs), 60), "Ray's dashboard does not answer"
            yield f"http://127.0.0.1:{jobs}"
        finally:
            head.terminate()  # it ends all processes of its node
            try:
                head.wait(30)
            finally:
                if head.poll() is None:
                    os.killpg(head.pid, signal.SIGKILL)


def test_the_exported_job_runs_its_ranks_on_the_cluster(dashboard: str, tmp_path: Path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    nbformat.write(notebook, tmp_path / "notebook.ipynb")
    export_notebook(tmp_path / "notebook.ipynb", tmp_path / "train.py", launchers=["ray"])
    done = subprocess.run(
        ["bash", tmp_path / "train.ray.sh"],
        env=ON_PATH | {"RAY_ADDRESS": dashboard},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Not line by line: Ray has Python write unbuffered, and then two ranks may share a line.
    for line in ("rank 0: 3", "rank 1: 3"):
        assert done.stdout.count(line) == 1, done.stdout + done.stderr


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def is_open(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
