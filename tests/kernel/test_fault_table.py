"""What can go wrong on a rank: each is said at once and plainly, and the next cell runs."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.alone  # it measures time

NEXT = """%%distributed
import torch, torch.distributed as dist
t = torch.ones(1); dist.all_reduce(t); t.item()"""
SOON = 5.0  # s; promised is 1
LOSE_A_PEER = "dist.barrier()  # the other rank is gone"

# What rank 1 does, what the user reads, whether rank 1 keeps its variables.
FAULTS = {
    "SIGKILL": ("os.kill(os.getpid(), 9)", "rank 1 was killed by SIGKILL", False),
    "SIGSEGV": ("ctypes.string_at(0)", "rank 1 was killed by SIGSEGV", False),
    "SIGTERM": (
        "os.kill(os.getpid(), 15); time.sleep(9)", "rank 1 was killed by SIGTERM", False,
    ),
    "os.abort": ("os.abort()", "rank 1 was killed by SIGABRT", False),
    "os._exit": ("os._exit(0)", "rank 1 ended its process with exit code 0", False),
    "sys.exit": ("sys.exit('gone')", "rank 1: SystemExit: gone", True),
    "quit": ("quit()", "rank 1: SystemExit", True),
    "memory": (
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 33, -1))\n    torch.ones(1 << 40)",
        "rank 1: RuntimeError: ",
        True,
    ),
    "recursion": ("def f(): f()\n    f()", "rank 1: RecursionError: maximum recursion", True),
    "odd error": (
        "class Odd(Exception):\n        def __str__(self): 1 / 0\n    raise Odd",
        "rank 1: Odd: <its text cannot be made: ZeroDivisionError>",
        True,
    ),
    "interrupt": ("raise KeyboardInterrupt", "rank 1: KeyboardInterrupt", True),
    "closed output": ("os.close(1); os.close(2)\n    raise ValueError(1)", "ValueError: 1", True),
    "descriptors": (
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 4096))\n"
        "    files = [open('/dev/null') for _ in range(1000)]",
        "rank 1: OSError: [Errno 24] Too many open files",
        True,
    ),
    "dies later": (
        "threading.Timer(0.2, os.kill, (os.getpid(), 9)).start(); time.sleep(9)",
        "rank 1 was killed by SIGKILL",
        False,
    ),
    "lost group": ("dist.destroy_process_group(); 1 / 0", "rank 1: ZeroDivisionError", True),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_on_one_rank_while_the_other_waits_for_it(shared_notebook, fault):
    does, said, survives = FAULTS[fault]
    run = shared_notebook.run
    run("%distributed globals().update(kept=rank)")
    output = run(
        "%%distributed\nimport ctypes, os, resource, sys, threading, time\n"
        "import torch, torch.distributed as dist\n"
        f"if rank == 1:\n    print('before', flush=True)\n    {does}\n{LOSE_A_PEER}",
        fails=True,
        timeout=40,
    )
    assert output.seconds < SOON
    assert f"RankError: {said}" in output.error or said in output.error.splitlines()[-1]
    assert "[1] before" in output.stdout
    assert run(NEXT).lines == ["[0-1] 2.0"]
    kept = run("%distributed globals().get('kept', 'lost')").lines
    assert kept == ["[0] 0", "[1] 1" if survives else "[1] 'lost'"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("open('/dev/null')", "the cell's last value is a TextIOWrapper, which cannot be brought"),
        ("(i for i in range(3))", "the cell's last value is a generator, which cannot be brought"),
        ("torch.zeros(1).expand(1 << 45)", None),
        (
            "[resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, -1)), torch.ones(1 << 20)]",
            "no room to share",
        ),
    ],
    ids=["file", "generator", "stretched", "too large"],
)
def test_a_result_that_cannot_come_back(shared_notebook, value, said):
    run = shared_notebook.run
    cell = f"%%distributed --out values\nimport resource, signal, torch\nkept = 5\n{value}"
    if said is None:
        run(cell)
        assert run("values[1].shape[0] == 1 << 45").value == "True"
        return
    error = run(cell, fails=True).error
    assert said in error
    run("%distributed __import__('resource').setrlimit(1, (-1, -1))")
    assert run("%distributed kept").lines == ["[0-1] 5"]


def test_a_result_that_the_notebook_cannot_rebuild_is_said_where_it_is_used(shared_notebook):
    run = shared_notebook.run
    run(
        "%%distributed --out values\nimport sys, types\n"
        "only = sys.modules['only_here'] = types.ModuleType('only_here')\n"
        "exec('class Thing: pass', vars(only))\nonly.Thing()"
    )
    said = "AccelnbError: rank 1's values cannot be rebuilt in the notebook: ModuleNotFoundError: "
    assert said in run("values[1]", fails=True).error.splitlines()[-1]


def test_a_rank_that_dies_right_after_its_last_line_is_noticed(shared_notebook):
    run = shared_notebook.run
    run(
        "%%distributed\nimport os, threading, torch, torch.distributed as dist\n"
        "if rank == 0: threading.Timer(0.5, os._exit, (7,)).start()"
    )
    run("import time; time.sleep(1)")
    output = run(NEXT)
    assert output.lines == ["[0-1] 2.0"]
    assert "rank 0 replaced: variables are lost there, kept elsewhere" in output.stderr


def test_a_kernel_out_of_descriptors_says_so_and_recovers(shared_notebook):
    run = shared_notebook.run
    run("%distributed rank")
    run(
        "import resource\nlimits = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (20, limits[1]))"
    )
    output = run("%%distributed --out big\nimport torch\ntorch.ones(1 << 20)", fails=True)
    assert "Too many open files" in output.error
    run("resource.setrlimit(resource.RLIMIT_NOFILE, limits)")
    run("%%distributed --out big\ntorch.ones(1 << 20)")
    assert run("len(big[1]) == 1 << 20").value == "True"
