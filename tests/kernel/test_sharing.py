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
