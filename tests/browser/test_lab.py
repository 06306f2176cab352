"""The first cell in JupyterLab, as its user does it."""

from __future__ import annotations

TRAIN = """%%distributed --procs 2 --out result
import time, torch, torch.distributed as dist
from tqdm import tqdm
torch.manual_seed(0)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 1))
opt = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    for step in tqdm(range(10), desc=f"epoch {epoch}"):
        x = torch.randn(16, 8) + rank
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        opt.zero_grad(); loss.backward(); opt.step()
        time.sleep(0.05)
    dist.all_reduce(loss)
    print(f"epoch {epoch}: loss {loss.item() / world_size:.3f}")
print(f"my share ended at {loss.item() / world_size:.3f} on {device}, I am {rank}")
loss.item()"""
PLOT = """%%distributed
import matplotlib.pyplot as plt
plt.figure(figsize=(3, 1.5)); plt.plot([rank, 2, 1 + rank]); plt.title(f"rank {rank}");"""


def test_a_training_cell_shows_its_ranks(open_notebook):
    notebook = open_notebook(
        "%load_ext accelnb", TRAIN, "len(result), result[0] == result[1]", PLOT
    )
    for index in range(4):
        notebook.run_cell(index)
    trained = notebook.output(1)
    assert "[0-1] epoch 2: loss" in trained
    assert "epoch 2: 100%" in trained
    assert "[1] my share ended" in trained
    assert "(2, True)" in notebook.output(2)
    plots = notebook.page.locator(".jp-CodeCell").nth(3).locator("img")
    assert plots.count() == 2
    notebook.screenshot("training-cell")


def test_an_error_names_the_rank_and_the_line_and_stop_gives_the_notebook_back(open_notebook):
    notebook = open_notebook(
        "%load_ext accelnb",
        "def share(x):\n    return 1 / (1 - x)",
        "%%distributed --procs 2\nimport torch, torch.distributed as dist\nkept = 7\nshare(rank)",
        "%%distributed\nif rank == 0:\n    dist.barrier()  # rank 1 never comes\nprint('past it')",
        "%%distributed\nt = torch.ones(1); dist.all_reduce(t); kept, t.item()",
        name="errors",
    )
    for index in range(2):
        notebook.run_cell(index)
    notebook.run_cell(2)
    assert "RankError: rank 1: ZeroDivisionError" in notebook.output(2)
    assert "Cell In[2], line 2" in notebook.output(2)
    notebook.run_cell(3, wait=False)
    notebook.page.get_by_text("[1] past it").wait_for()
    notebook.page.locator(
        '[data-command="notebook:interrupt-kernel"], [data-jp-item-name="interrupt"] jp-button'
    ).first.click()
    notebook.wait_idle(3)
    assert "rank 0 stopped at Cell In[4], line 3 (in barrier)" in notebook.output(3)
    notebook.run_cell(4)
    assert "[0-1] (7, 2.0)" in notebook.output(4)
    notebook.screenshot("error-and-stop")
