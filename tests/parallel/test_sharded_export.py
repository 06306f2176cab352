"""A notebook that divides a model over its ranks, exported: the same under every launcher."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from harness import Notebook

_OPTIONS = "%%distributed --device cpu --procs 4 --strategy fsdp --mesh dp_shard=2,tp=2\n"
_PREPARE = """\
import torch, accelnb
from torch import nn
accelerator = accelnb.Accelerator()
torch.manual_seed(0)
class Net(nn.Module):
    tp_plan = {"up": "colwise", "down": "rowwise"}
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
    def forward(self, x):
        return self.down(self.up(x).relu())
net = Net()
optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
net, optimizer = accelerator.prepare(net, optimizer)"""
_TRAIN = """\
torch.manual_seed(1 + accelerator.mesh.data_share)
x = torch.randn(4, 8)
for step in range(3):
    loss = net(x).pow(2).mean()
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    print(f"loss {accelerator.reduce(loss.detach(), 'mean').item():.6f}")"""
_LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--standalone", "--nproc-per-node", "4"),
    "accelnb launch": ("accelnb", "launch", "--procs", "4"),
    "accelnb launch with Accelerate's file": (
        *("accelnb", "launch", "--config_file", "accelerate.yaml"),
    ),
    "accelerate launch": (*("accelerate.commands.launch", "--config_file", "accelerate.yaml"),),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    cells = ["%load_ext accelnb", _OPTIONS + _PREPARE, _OPTIONS + _TRAIN]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbformat.write(notebook, folder / "train.ipynb")
    _python(folder, "-m", "accelnb", "export", "train.ipynb", "-o", "train.py", "--accelerate")
    return folder


@pytest.fixture(scope="module")
def losses(folder: Path) -> list[str]:
    """What the notebook itself prints."""
    notebook = Notebook(folder)
    try:
        notebook.load()
        notebook.run(_OPTIONS + _PREPARE)
        return _losses(notebook.run(_OPTIONS + _TRAIN).stdout)
    finally:
        notebook.close()


@pytest.mark.parametrize("launcher", _LAUNCHERS)
def test_a_launcher_gives_the_losses_of_the_notebook(folder, losses, launcher):
    assert len(losses) == 3
    printed = _python(folder, "-m", *_LAUNCHERS[launcher], "train.py")
    assert sorted(_losses(printed)) == sorted(losses * 4)


def test_one_process_runs_the_script_without_the_mesh(folder):
    assert len(_losses(_python(folder, "train.py"))) == 3


def test_a_mesh_of_another_size_is_one_line(folder):
    done = _run(folder, "-m", "accelnb", "launch", "--mesh", "dp_shard=3", "-n", "2", "train.py")
    assert done.returncode == 2
    assert done.stderr.startswith("accelnb: mesh=dp_shard=3: has 3 places for 2 ranks; ")
    assert done.stderr.count("\n") == 1


def _losses(text: str) -> list[str]:
    return re.findall(r"loss (\d\.\d{6})", text)


def _python(folder: Path, *words: str) -> str:
    done = _run(folder, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
