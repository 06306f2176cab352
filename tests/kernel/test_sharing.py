"""What a notebook is told of ranks that share a model."""

from __future__ import annotations


def test_the_status_says_how_ranks_share_and_where_each_is(shared_notebook):
    run = shared_notebook.run
    assert "2 ranks: " not in run("%%distributed --procs 2\nrank").stdout
    assert "cpu, started by fork, idle\n" in run("%accelnb status").stdout
    run("%%distributed --procs 2 --strategy fsdp\nrank")
    status = run("%accelnb status").stdout.splitlines()
    assert status[0].endswith(", idle: data 2; each rank holds 1/2")
    assert status[2].startswith("rank 1: dp_shard 1, pid ")
    assert "MiB memory, idle" in status[2]
    run("%%distributed --ranks 0\nrank")  # no cell of all ranks: their mesh is what it was
    assert "dp_shard 1" in run("%accelnb status").stdout


_SHARDED = """%%distributed --procs 2 --strategy fsdp
import accelnb, torch
from torch import nn
torch.manual_seed(0)
accelerator = accelnb.Accelerator()
model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
before = model[0].weight.detach().clone()
model = accelerator.prepare(model)"""


def test_what_is_divided_comes_back_whole_and_a_model_stays(shared_notebook):
    run = shared_notebook.run
    run(_SHARDED)
    run("%%distributed --out weight --pull before\nmodel[0].weight")
    whole = "[type(w).__name__, w.requires_grad, torch.equal(w, before[0])]"
    assert run(f"import torch; [{whole} for w in weight]").value == str(
        [["Tensor", True, True]] * 2
    )
    run("%%distributed --out state\nmodel.state_dict()")
    assert run("[tuple(s['1.weight'].shape) for s in state]").value == "[(2, 6), (2, 6)]"
    assert "DTensor(" in run("%%distributed\nprint(repr(model[0].weight))").stdout
    for ask, what in (
        ("%%distributed --out m\nmodel", "the cell's last value"),
        ("%accelnb pull model", "the variable model"),
    ):
        said = run(ask, fails=True).error
        assert f"{what} is a Sequential whose weights are divided over the ranks" in said
        assert "accelerator.save_model(model, folder)" in said


def test_what_is_too_large_to_be_put_together_is_refused_on_all_ranks(shared_notebook):
    run = shared_notebook.run
    run(_SHARDED)
    run(
        """%%distributed
from accelnb.worker import sharded_values
real, rank_0 = sharded_values.memory, rank == 0
sharded_values.memory = lambda root: real(root)._replace(free=250 if rank_0 else 10**9)"""
    )
    said = run("%%distributed --out state\nmodel.state_dict()", fails=True).error
    assert "ranks 0-1: " in said
    assert "do not fit the 250 B of memory that are free there: write it with accelerator" in said
    run("%%distributed\nsharded_values.memory = real")
