"""The stop button: the notebook comes back, the ranks and their variables stay."""

from __future__ import annotations

import threading
import time

import pytest

pytestmark = pytest.mark.alone  # it measures time

# Promised: 3 s. A hang would be 30 s and more.
SOON = 6.0


def stopped(notebook, cell: str, after: str = "[0-1] at work"):
    """Run a cell, press the stop button when it has printed, return its output."""
    pressed = []

    def press(output):
        if after in output.stdout and not pressed:
            pressed.append(time.monotonic())
            # A moment later, so that the ranks are where the cell goes next.
            threading.Timer(0.3, notebook.interrupt).start()

    output = notebook.run(f"%%distributed\n{cell}", fails=True, timeout=40, on_output=press)
    assert time.monotonic() - pressed[0] < SOON
    return output


@pytest.fixture
def pids(shared_notebook):
    def read() -> str:
        shared_notebook.run("%%distributed --out pids\nimport os; os.getpid()")
        return shared_notebook.run("list(pids)").value

    shared_notebook.run("%distributed globals().update(kept=7)")
    return read


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        ("print('at work', flush=True)\nwhile True:\n    pass", 3),
        ("import time\nprint('at work', flush=True)\ntime.sleep(100)", 4),
        (
            "import torch.distributed as dist\nprint('at work', flush=True)\n"
            "if rank == 0:\n    dist.barrier()\nelse:\n    while True: pass",
            5,
        ),
        (
            "import torch.distributed as dist, torch\nprint('at work', flush=True)\n"
            "if rank == 0:\n    dist.barrier()\n"
            "else:\n    dist.all_reduce(torch.ones(1)); dist.all_reduce(torch.ones(1))",
            5,
        ),
        (
            "import time, torch.utils.data as data\nclass Slow(data.Dataset):\n"
            "    def __len__(self): return 1000\n"
            "    def __getitem__(self, i): time.sleep(0.2); return i\n"
            "print('at work', flush=True)\n"
            "for batch in data.DataLoader(Slow(), num_workers=2): pass",
            7,
        ),
        ("import subprocess\nprint('at work', flush=True)\nsubprocess.run(['sleep', '100'])", 4),
    ],
    ids=["python", "sleep", "collective", "mismatch", "dataloader", "subprocess"],
)
def test_stop_ends_the_cell_and_keeps_ranks_and_state(shared_notebook, pids, cell, line):
    before = pids()
    output = stopped(shared_notebook, cell)
    assert "KeyboardInterrupt: stopped ranks 0-1; variables are kept" in output.error
    assert f", line {line}" in output.error
    after = shared_notebook.run(
        "%%distributed\nimport torch, torch.distributed as dist\n"
        "t = torch.ones(1); dist.all_reduce(t); (kept, t.item())"
    )
    assert after.lines == ["[0-1] (7, 2.0)"]
    assert pids() == before


def test_a_rank_that_cannot_be_interrupted_is_replaced_and_the_user_told(shared_notebook, pids):
    output = stopped(
        shared_notebook,
        "import ctypes, time\nprint('at work', flush=True)\n"
        "time.sleep(0.2)  # the line is out before the lock is kept\n"
        "if rank == 1:\n    ctypes.PyDLL(None).sleep(100)  # keeps Python's lock\n"
        "while True: pass",
    )
    assert "stopped rank 0; variables are kept" in output.error
    assert "rank 1 did not answer: replaced, variables lost" in output.error
    after = shared_notebook.run("%distributed globals().get('kept')")
    assert after.lines == ["[0] 7"]
    assert "rank 1 replaced: variables are lost there, kept elsewhere" in after.stderr


def test_the_cell_may_clean_up_when_it_is_stopped(shared_notebook, pids):
    output = stopped(
        shared_notebook,
        "import time\nprint('at work', flush=True)\ntry:\n    time.sleep(100)\n"
        "finally:\n    time.sleep(0.5)\n    print('cleaned up')",
    )
    assert "[0-1] cleaned up" in output.stdout
    assert shared_notebook.run("%distributed kept").lines == ["[0-1] 7"]


def test_stop_while_ranks_start_leaves_the_next_cell_working(notebook):
    timer = threading.Timer(0.02, notebook.interrupt)
    timer.start()
    try:
        notebook.run("%%distributed --procs 2 --start spawn\nrank", fails=True, timeout=60)
    finally:
        timer.join()
    assert notebook.run("%distributed --procs 2 --start fork rank").lines == ["[0] 0", "[1] 1"]


def test_stop_while_values_are_packed_sends_nothing(shared_notebook, pids):
    shared_notebook.run(
        "import time\nclass Slow:\n    def __reduce__(self):\n        time.sleep(20)\n"
        "        return int, (5,)\nslow, other = Slow(), 4"
    )
    threading.Timer(0.5, shared_notebook.interrupt).start()
    error = shared_notebook.run("%distributed slow, other", fails=True).error
    assert error == "KeyboardInterrupt: stopped before the cell began on the ranks"
    shared_notebook.run("slow = 1")
    assert shared_notebook.run("%distributed slow, other").lines == ["[0-1] (1, 4)"]


def test_stop_ends_a_launched_function_and_its_ranks(shared_notebook):
    ranks = len(shared_notebook.processes())
    shared_notebook.run("import accelnb, time")
    threading.Timer(1.0, shared_notebook.interrupt).start()
    error = shared_notebook.run("accelnb.launch(time.sleep, 60, procs=2)", fails=True).error
    assert error.startswith("KeyboardInterrupt: stopped; the ranks of this call have ended")
    assert len(shared_notebook.processes()) == ranks


def test_stop_twice_does_not_wait_for_the_ranks_and_the_next_cell_runs(shared_notebook):
    for seconds in (0.5, 0.8):
        threading.Timer(seconds, shared_notebook.interrupt).start()
    stubborn = "while True:\n    try: time.sleep(60)\n    except KeyboardInterrupt: pass"
    output = shared_notebook.run(f"%%distributed\nimport time\n{stubborn}", fails=True)
    assert output.error == "KeyboardInterrupt: the ranks are still being stopped"
    assert output.seconds < 1.8  # they are killed after 2.2
    assert shared_notebook.run("%distributed rank").lines == ["[0] 0", "[1] 1"]
