"""What goes wrong on a rank reads like an error of the notebook, and the next cell runs."""

from __future__ import annotations

import os
import re
import signal
import threading

import pytest
from harness import wait_until

pytestmark = pytest.mark.alone  # it measures time

ALL_REDUCE = (
    "%%distributed\nimport torch, torch.distributed as dist\n"
    "t = torch.ones(1); dist.all_reduce(t); t.item()"
)
SOON = 6.0  # s; promised are 2


def test_an_error_on_one_rank_ends_the_cell_on_all(shared_notebook):
    output = shared_notebook.run(
        "%%distributed\nimport torch.distributed as dist\nkept = 3\n"
        "if rank == 1:\n    1 / 0\ndist.barrier()  # rank 1 never comes",
        fails=True,
    )
    assert output.seconds < SOON
    assert output.ename == "RankError"
    assert "RankError: rank 1: ZeroDivisionError: division by zero (Cell In[" in output.error
    assert "----> 5     1 / 0" in output.error
    assert "rank 0 stopped at Cell In[" in output.error
    assert "accelnb/" not in output.error
    assert shared_notebook.run(ALL_REDUCE).lines == ["[0-1] 2.0"]
    assert shared_notebook.run("%distributed kept").lines == ["[0-1] 3"]


def test_equal_errors_are_shown_once_and_name_the_cell_that_defined_the_function(shared_notebook):
    shared_notebook.run("def broken(x):\n    y = x\n    raise ValueError(f'no {y}')")
    number = shared_notebook.run("len(In) - 2").value
    output = shared_notebook.run("%%distributed\nbroken('luck')", fails=True)
    assert output.error.count("----> 3     raise ValueError") == 1
    assert f"RankError: ranks 0-1: ValueError: no luck (Cell In[{number}], line 3)" in output.error
    different = shared_notebook.run("%%distributed\nbroken(rank)", fails=True).error
    assert "rank 0: ValueError: no 0" in different
    assert "rank 1: ValueError: no 1" in different


@pytest.mark.parametrize(
    ("dies", "said", "last"),
    [
        ("os.kill(os.getpid(), 9)", "was killed by SIGKILL", "last words"),
        ("import ctypes; ctypes.string_at(0)", "was killed by SIGSEGV", "Segmentation fault"),
        ("os._exit(3)", "ended its process with exit code 3", "last words"),
    ],
    ids=["SIGKILL", "SIGSEGV", "_exit"],
)
def test_a_rank_that_dies_is_named_with_its_last_output_and_replaced(
    shared_notebook, dies, said, last
):
    shared_notebook.run("%distributed globals().update(kept=rank)")
    output = shared_notebook.run(
        "%%distributed\nimport os, torch.distributed as dist\n"
        f"if rank == 1:\n    print('last words', flush=True)\n    {dies}\ndist.barrier()",
        fails=True,
    )
    assert output.seconds < SOON
    assert f"RankError: rank 1 {said}" in output.error
    assert last in output.error
    assert "[1] last words" in output.stdout
    assert "rank 1 will be replaced; its variables are lost" in output.error
    after = shared_notebook.run("%distributed globals().get('kept', 'lost')")
    assert after.lines == ["[0] 0", "[1] 'lost'"]
    assert shared_notebook.run(ALL_REDUCE).lines == ["[0-1] 2.0"]


def test_a_rank_killed_from_outside_in_a_collective(shared_notebook):
    shared_notebook.run("%%distributed --out pids\nimport os; os.getpid()")
    victim = eval(shared_notebook.run("pids[0]").value)
    killed = []

    def kill(output):
        if "waiting" in output.stdout and not killed:
            killed.append(threading.Timer(0.2, os.kill, (victim, signal.SIGKILL)))
            killed[0].start()

    output = shared_notebook.run(
        "%%distributed\nimport torch.distributed as dist, time\n"
        "if rank == 0:\n    print('waiting', flush=True)\n    dist.barrier()\ntime.sleep(60)",
        fails=True,
        on_output=kill,
    )
    assert output.seconds < SOON
    assert "RankError: rank 0 was killed by SIGKILL" in output.error
    assert shared_notebook.run(ALL_REDUCE).lines == ["[0-1] 2.0"]


def test_a_rank_killed_while_it_starts_is_reported_and_the_next_cell_starts_anew(notebook):
    server = notebook.processes()[0]

    def kill_first_child():
        wait_until(lambda: bool(server.children()), 20)
        for child in server.children()[:1]:
            child.kill()

    killer = threading.Thread(target=kill_first_child)
    killer.start()
    output = notebook.run("%%distributed --procs 2 --start spawn\nrank", fails=True, timeout=60)
    killer.join()
    assert "did not start: it was killed by SIGKILL" in output.error
    assert notebook.run("%distributed --procs 2 --start fork rank").lines == ["[0] 0", "[1] 1"]


def test_the_fork_server_may_die(notebook):
    notebook.run("%distributed --procs 2 globals().update(kept=1)")
    server, *ranks = notebook.processes()
    server.kill()
    assert wait_until(lambda: not any(rank.is_running() for rank in ranks), 5)
    output = notebook.run("%distributed 'kept' in globals()", timeout=90)
    assert output.lines == ["[0-1] False"]
    assert "the ranks are gone: new ones are started" in output.stderr


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (
            "class Odd(Exception):\n    def __str__(self): raise TypeError('no')\nraise Odd",
            "RankError: ranks 0-1: Odd: <its text cannot be made: TypeError>",
        ),
        ("def f(n): return f(n + 1)\nf(0)", "RecursionError: maximum recursion depth"),
        ("import sys\nsys.exit(3)", "RankError: ranks 0-1: SystemExit: 3"),
        ("raise ValueError('\\ud800')", "RankError: ranks 0-1: ValueError: ? (Cell In["),
        (
            "from IPython.display import display\ndisplay({'application/x': print}, raw=True)",
            "RankError: ranks 0-1: TypeError: a display has to be text or JSON: <built-in",
        ),
        ("raise ExceptionGroup('two', [ValueError(1), TypeError(2)])", "    | TypeError: 2\n"),
        ("import getpass\ngetpass.getpass()", "StdinNotImplementedError: a rank has no keyboard"),
        ("import sys\nsys.stdout = None\n1 / 0", "RankError: ranks 0-1: ZeroDivisionError"),
        ("import sys\nsys.stderr.close()\nsys.stdout = open('/dev/null', 'w')\n"
         "sys.stdout.close()\n1 / 0", "RankError: ranks 0-1: ZeroDivisionError"),
    ],
    ids=[
        "str-raises", "recursion", "sys.exit", "half a surrogate", "display", "group", "getpass",
        "no stdout", "closed stdout",
    ],
)  # fmt: skip
def test_odd_exceptions_are_reported_and_the_ranks_live_on(shared_notebook, cell, said):
    shared_notebook.run("%distributed globals().update(kept=rank)")
    output = shared_notebook.run(f"%%distributed\n{cell}", fails=True)
    assert said in output.error
    assert "worker/" not in output.error  # no frame of ours
    assert "Traceback" not in output.stderr
    assert shared_notebook.run("%distributed kept").lines == ["[0] 0", "[1] 1"]


def test_a_value_that_cannot_be_brought_back_is_named(shared_notebook):
    output = shared_notebook.run(
        "%%distributed --out values\nimport socket\nsocket.socket()", fails=True
    )
    assert "the cell's last value is a socket, which cannot be brought back" in output.error
    assert shared_notebook.run(ALL_REDUCE).lines == ["[0-1] 2.0"]


def test_a_rank_whose_link_fails_ends_instead_of_hanging(shared_notebook):
    error = shared_notebook.run(
        "%%distributed\nimport time\nfrom accelnb.worker.link import RankLink\n"
        "RankLink._wait_ms = None\ntime.sleep(60)  # it ends long before",
        fails=True,
    ).error
    assert "exit code 1; its last output:" in error
    assert "TypeError: 'NoneType' object is not callable" in error
    assert shared_notebook.run(ALL_REDUCE).lines == ["[0-1] 2.0"]


def test_a_notebook_whose_link_fails_says_so_and_starts_new_ranks(shared_notebook):
    shared_notebook.run(
        "from accelnb.engine.run import Run\nkept = Run.take_streamed\nRun.take_streamed = None"
    )
    error = shared_notebook.run(
        "%%distributed --procs 2\nimport accelnb, time\naccelnb.stream('x', 1.0); time.sleep(60)",
        fails=True,
    ).error
    assert "ranks 0-1: the notebook's link to its ranks failed: TypeError" in error
    shared_notebook.run("Run.take_streamed = kept")
    assert shared_notebook.run(ALL_REDUCE).lines == ["[0-1] 2.0"]


def test_a_fork_server_that_can_start_no_more_says_so_and_goes_on(notebook):
    notebook.run("%distributed --procs 1 rank")
    server = notebook.processes()[0]
    notebook.run(
        f"import resource\nlimits = resource.prlimit({server.pid}, resource.RLIMIT_NOFILE)\n"
        f"resource.prlimit({server.pid}, resource.RLIMIT_NOFILE, (36, limits[1]));"
    )
    error = notebook.run("%distributed --procs 12 rank", fails=True).error
    assert re.search(r"AccelnbError: rank \d could not be started: Too many open files", error)
    notebook.run(f"resource.prlimit({server.pid}, resource.RLIMIT_NOFILE, limits);")
    assert notebook.run("%distributed --procs 2 rank").lines == ["[0] 0", "[1] 1"]
    assert notebook.processes()[0] == server
    notebook.run("%accelnb shutdown")
    assert server.num_fds() < 12


def test_a_fork_server_killed_while_ranks_start_is_named(notebook):
    notebook.run(
        "import accelnb.engine.launchers.local as local\nstart = local.LocalRanks.start\n"
        "def start_and_kill(self, *args):\n    start(self, *args)\n"
        "    local.fork_server().process.kill()\n"
        "local.LocalRanks.start = start_and_kill"
    )
    error = notebook.run("%distributed --procs 1 rank", fails=True).error
    assert "AccelnbError: the fork server ended: it was killed" in error
    notebook.run("local.LocalRanks.start = start")
    assert notebook.run("%distributed --procs 2 rank", timeout=90).lines == ["[0] 0", "[1] 1"]


def test_an_error_on_a_line_of_an_ordinary_cell_names_that_line(shared_notebook):
    error = shared_notebook.run(
        "def divide():\n    return 1 / 0\nfine = 1\n%distributed divide()", fails=True
    ).error
    assert "----> 4 divide()" in error
    assert "----> 2     return 1 / 0" in error
    error = shared_notebook.run("fine = 1\n%distributed 1 1", fails=True).error
    assert "    1 1\n" in error
    assert "SyntaxError: invalid syntax" in error
