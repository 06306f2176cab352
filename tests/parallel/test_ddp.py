"""A raw DDP program gives the same numbers in a cell, under torchrun and in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

# A script as one writes it for torchrun. It uses only what torchrun sets.
PROGRAM = """
import json, os
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

if not dist.is_initialized():
    dist.init_process_group("gloo")
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 5)
)
model = DistributedDataParallel(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
data = torch.Generator().manual_seed(1)
losses = []
for step in range(12):
    x, y = torch.randn(32, 1, 8, 8, generator=data), torch.randint(5, (32,), generator=data)
    part = slice(rank * 32 // size, (rank + 1) * 32 // size)
    loss = torch.nn.functional.cross_entropy(model(x[part]), y[part])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    total = loss.detach().clone()
    dist.all_reduce(total)
    losses.append((total / size).item())
"""
REPORT = "\nif rank == 0:\n    print('losses', json.dumps(losses))\n"


def under_torchrun(tmp_path, procs: int, threads: str) -> list[float]:
    script = tmp_path / "train.py"
    script.write_text(PROGRAM + REPORT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, f"--nproc_per_node={procs}", str(script)],
        env=os.environ | {"OMP_NUM_THREADS": threads, "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("losses"))
    return json.loads(line.removeprefix("losses"))


def test_a_cell_trains_as_torchrun_does_and_as_one_process(notebook, tmp_path):
    notebook.run(f"%%distributed --procs 2 --out values\n{PROGRAM}\nlosses")
    losses = json.loads(notebook.run("values[0]").value)
    assert notebook.run("values[0] == values[1]").value == "True"
    threads = eval(
        notebook.run("%distributed --out t __import__('torch').get_num_threads()\nt[0]").value
    )
    assert losses == under_torchrun(tmp_path, 2, str(threads))
    whole = under_torchrun(tmp_path, 1, str(threads))
    assert losses == pytest.approx(whole, abs=1e-5)
    assert losses[-1] < losses[0]
