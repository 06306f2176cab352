"""Code written for torchrun, Accelerate or Lightning Fabric runs unchanged in a cell."""

from __future__ import annotations

import pytest


def test_accelerate_sees_the_ranks_and_the_cells_precision(shared_notebook):
    cell = """%%distributed --precision bf16
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
AcceleratorState._reset_state(True)
accelerator = Accelerator()
model, opt = torch.nn.Linear(4, 1), None
model, opt = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
loss = model(torch.ones(2, 4) + accelerator.process_index).float().mean()
accelerator.backward(loss)
opt.step()
gathered = accelerator.gather(torch.tensor([accelerator.process_index]))
accelerator.num_processes, accelerator.mixed_precision, gathered.tolist(), type(model).__name__"""
    assert shared_notebook.run(cell).lines == [
        "[0-1] (2, 'bf16', [0, 1], 'DistributedDataParallel')"
    ]
    again = shared_notebook.run(cell.replace("--precision bf16", "--precision no"))
    assert again.lines == ["[0-1] (2, 'no', [0, 1], 'DistributedDataParallel')"]


def test_the_accelerator_follows_each_cells_precision_and_uses_its_process_group(shared_notebook):
    cell = """%%distributed --precision bf16
import torch, torch.distributed as dist
from accelnb import Accelerator
accelerator = Accelerator()
model = torch.nn.Linear(4, 1)
model, opt = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
accelerator.backward(model(torch.ones(2, 4) + accelerator.process_index).mean())
opt.step()
accelerator.end_training()
accelerator.mixed_precision, type(model).__name__, dist.is_initialized()"""
    assert shared_notebook.run(cell).lines == ["[0-1] ('bf16', 'DistributedDataParallel', True)"]
    kept = shared_notebook.run(
        "%%distributed\naccelerator = Accelerator()\nmodel = accelerator.prepare(model)\n"
        "out = model(torch.ones(1, 4))\n"
        "(accelerator.mixed_precision, int(accelerator.gather(out.detach()).shape[0]))"
    )
    assert kept.lines == ["[0-1] ('no', 2)"]


def test_lightning_fabric_runs_unchanged(shared_notebook):
    pytest.importorskip("lightning_fabric")
    output = shared_notebook.run(
        """%%distributed --out seen
import torch
from lightning_fabric import Fabric
fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
fabric.launch()
model = torch.nn.Linear(4, 1)
model, opt = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
loss = model(torch.ones(2, 4) + fabric.global_rank).mean()
fabric.backward(loss)
opt.step()
fabric.world_size, fabric.all_gather(torch.tensor(fabric.global_rank)).tolist()""",
        timeout=90,
    )
    assert "Traceback" not in output.stderr
    assert shared_notebook.run("list(seen)").value == "[(2, [0, 1]), (2, [0, 1])]"


def test_a_scripts_own_process_group_works_cell_after_cell(shared_notebook):
    cell = """%%distributed
import torch, torch.distributed as dist
dist.init_process_group("gloo")
t = torch.ones(1) * (dist.get_rank() + 1)
dist.all_reduce(t)
dist.destroy_process_group()
t.item()"""
    assert shared_notebook.run(cell).lines == ["[0-1] 3.0"]
    assert shared_notebook.run(cell).lines == ["[0-1] 3.0"]
    ready = "%%distributed\nt = torch.ones(1); dist.all_reduce(t); t.item()"
    assert shared_notebook.run(ready).lines == ["[0-1] 2.0"]


def test_a_data_loader_with_workers(shared_notebook):
    shared_notebook.run(
        "import torch\nclass Squares(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 20\n    def __getitem__(self, i): return i * i"
    )
    output = shared_notebook.run(
        """%%distributed
from torch.utils.data import DataLoader, DistributedSampler
data = Squares()
sampler = DistributedSampler(data, shuffle=False)
sum(int(batch.sum()) for batch in DataLoader(data, 4, sampler=sampler, num_workers=2))"""
    )
    evens, odds = (sum(i * i for i in range(start, 20, 2)) for start in (0, 1))
    assert output.lines == [f"[0] {evens}", f"[1] {odds}"]
