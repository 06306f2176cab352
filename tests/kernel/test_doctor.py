"""Where ranks are, and why they do not go on."""

from __future__ import annotations

import os
import signal
import threading

import pytest


def stalled(notebook, cell: str, options: str = ""):
    """Run a cell that stalls, stop it once the report is there, and return its output."""
    pressed = []

    def press(output):
        if "no rank has made progress" in output.stderr and not pressed:
            pressed.append(1)
            threading.Timer(0.2, notebook.interrupt).start()

    cell = f"%%distributed --stall 1 {options}\nimport torch, torch.distributed as dist\n{cell}"
    return notebook.run(cell, fails=True, timeout=60, on_output=press)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (
            "if rank == 0:\n    dist.barrier()\nelse:\n    dist.all_reduce(torch.ones(1))",
            [
                "  rank 0: barrier (collective ",
                "line 4\n",
                "  rank 1: all_reduce (collective ",
                "line 6\n",
                "the ranks took different branches at Cell In[",
                ", line 3\n",
            ],
        ),
        (
            "def step(n):\n    for i in range(n):\n        dist.all_reduce(torch.ones(1))\n"
            "step(2 + rank)\nif rank == 0: input_done = True; dist.barrier(); dist.barrier()",
            ["at collective ", "(all_reduce)", "(barrier)", "the ranks took different branches"],
        ),
        (
            "import time\nif rank == 0:\n    dist.barrier()\ntime.sleep(100)",
            ["  rank 1: Cell In[", "line 6\n", "rank 0 in barrier: rank 1 did not come to it"],
        ),
        (
            "if rank == 0:\n    dist.barrier()",
            ["  rank 1: idle, it runs no cell", "rank 0 in barrier: rank 1 did not come to it"],
        ),
    ],
    ids=["branches", "counts", "asleep", "finished"],
)
def test_a_stall_says_where_each_rank_is_and_why(shared_notebook, cell, said):
    output = stalled(shared_notebook, cell)
    for part in said:
        assert part in output.stderr, output.stderr
    assert output.stderr.count("no rank has made progress") == 1
    again = "%%distributed\nt = torch.ones(1); dist.all_reduce(t); t.item()"
    assert shared_notebook.run(again).lines == ["[0-1] 2.0"]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (
            "import time\nif rank == 0: dist.recv(torch.ones(1), 1)\ntime.sleep(100)",
            [
                "  rank 0: recv from rank 1, Cell In[",
                "rank 0 in recv from rank 1; rank 1: Cell In[",
            ],
        ),
        (
            "if rank == 1: dist.isend(torch.ones(1), 0).wait()",
            ["rank 1 in send to rank 0; rank 0: idle, it runs no cell"],
        ),
        (
            "dist.recv(torch.ones(1), 1 - rank)",
            ["rank 0 in recv from rank 1, rank 1 in recv from rank 0: each waits for the other\n"],
        ),
        (
            "if rank == 0: dist.monitored_barrier()\nelse: dist.barrier()",
            ["rank 0 in monitored_barrier; rank 1: barrier (collective "],
        ),
        (
            "if rank == 0: dist.distributed_c10d._get_default_store().get('k')",
            ["  rank 0: store wait for key 'k', Cell In[", "  rank 1: idle"],
        ),
        (
            "if rank == 0: dist.new_group([0, 1])",
            ["rank 0 in new_group; rank 1: idle, it runs no cell"],
        ),
    ],
    ids=["recv", "send", "mutual", "monitored", "store", "new-group"],
)
def test_a_stall_names_the_rank_or_the_key_that_is_waited_for(shared_notebook, cell, said):
    shared_notebook.run("%distributed globals().update(kept=7)")
    output = stalled(shared_notebook, cell)
    for part in said:
        assert part in output.stderr, output.stderr
    assert "the stop button ends the cell and keeps the ranks and their variables" in output.stderr
    assert "stopped ranks 0-1; variables are kept" in output.error
    assert shared_notebook.run("%distributed kept").lines == ["[0-1] 7"]


def test_a_stall_says_which_rank_takes_no_part(shared_notebook):
    output = stalled(shared_notebook, "dist.recv(torch.ones(1), 1)", options="--ranks 0")
    assert "rank 0 in recv from rank 1; rank 1 takes no part in this cell" in output.stderr


def test_a_rank_that_cannot_answer_is_named(shared_notebook):
    output = stalled(
        shared_notebook,
        "if rank == 0:\n    import ctypes; ctypes.PyDLL(None).sleep(60)\ndist.barrier()",
    )
    assert "rank 0: does not answer: it is in C code that keeps Python's lock" in output.stderr
    assert "rank 1: barrier" in output.stderr
    assert "if rank 0 cannot be interrupted, it is replaced and its variables" in output.stderr


def test_a_stopped_process_is_named_and_goes_on_when_continued(shared_notebook):
    shared_notebook.run("%%distributed --out pids\nimport os; os.getpid()")
    pid = eval(shared_notebook.run("pids[1]").value)

    def go_on(output):
        if "kill -CONT" in output.stderr:
            os.kill(pid, signal.SIGCONT)

    output = shared_notebook.run(
        "%%distributed --stall 1\nimport os, signal, torch, torch.distributed as dist\n"
        "if rank == 1: os.kill(os.getpid(), signal.SIGSTOP)\n"
        "t = torch.ones(1); dist.all_reduce(t); t.item()",
        on_output=go_on,
    )
    assert f"rank 1: its process is stopped (kill -CONT {pid} resumes it)" in output.stderr
    assert output.lines == ["[0-1] 2.0"]


def test_a_rank_that_works_or_prints_has_not_stalled(shared_notebook):
    output = shared_notebook.run(
        """%%distributed --stall 0.5
import time
if rank == 0:
    for _ in range(8): time.sleep(0.3); print("alive")
else:
    end = time.time() + 2.4
    while time.time() < end:
        sum(range(1000))"""
    )
    assert output.stderr == ""


def test_ranks_that_send_to_each_other_have_not_stalled(shared_notebook):
    output = shared_notebook.run(
        """%%distributed --stall 0.5
import time, torch, torch.distributed as dist
for _ in range(10):
    if rank == 0:
        time.sleep(0.2)
        dist.send(torch.ones(1), 1)
    else:
        dist.recv(torch.ones(1), 0)"""
    )
    assert output.stderr == ""


def test_stacks_show_ranks_inside_c_code_with_equal_places_once(shared_notebook):
    run = shared_notebook.run
    run(
        """%%distributed --detach --out run
import torch, torch.distributed as dist
def wait_for_the_other():
    dist.barrier()
if rank == 0:
    wait_for_the_other()
else:
    import time
    time.sleep(60)"""
    )
    run("run.wait(0.5)")
    stacks = run("%accelnb stacks").stdout
    assert "rank 0: barrier (collective " in stacks
    assert ", line 6, in <module>\n" in stacks
    assert ", line 4, in wait_for_the_other\n" in stacks
    assert "rank 1: Cell In[" in stacks
    assert "rank 0 in barrier: rank 1 did not come to it" in stacks
    status = run("%accelnb status").stdout
    assert "2 ranks on cpu, started by fork, busy for " in status
    assert "MiB memory, barrier (collective " in status
    run("run.interrupt(); run.wait(6)")
    assert run("%accelnb stacks").stdout == "ranks 0-1: idle, it runs no cell\n"


def test_a_wrapper_of_an_old_process_group_says_to_wrap_again(shared_notebook):
    run = shared_notebook.run
    run(
        """%%distributed
import torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
ddp = DistributedDataParallel(torch.nn.Linear(2, 2))
sharded = fully_shard(torch.nn.Linear(2, 2))"""
    )
    stalled(shared_notebook, "if rank == 0: dist.barrier()")
    error = run("%%distributed\nddp(torch.ones(1, 2)).sum().backward()", fails=True).error
    assert "ranks 0-1: RuntimeError: ddp was made on a process group that ended" in error
    assert "wrap the model again, as in DistributedDataParallel(ddp.module)" in error
    # What torch divides finds its groups again, under their names.
    assert run("%%distributed\nsharded(torch.ones(1, 2)).shape").lines == [
        "[0-1] torch.Size([1, 2])"
    ]
    again = (
        "%%distributed\nddp = DistributedDataParallel(ddp.module)\n"
        "ddp(torch.ones(1, 2)).sum().backward()"
    )
    run(again)
