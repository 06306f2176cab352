"""Ranks without a notebook: the engine driven from a plain script."""

from __future__ import annotations

import pytest

GROUP = """
from accelnb.options.config import LaunchConfig
from accelnb.engine.group import WorkerGroup

def start(method, procs=2):
    return WorkerGroup(LaunchConfig(procs=procs, device="cpu", start=method))

def run(group, code):
    cell = {"code": code, "source": code, "name": "<cell>", "number": 1}
    request = {"cell": cell, "result": True}
    run = group.run("execute_request", {rank: (request, []) for rank in group.ranks})
    return list(run.result)

SUM = "import torch, torch.distributed as d; t = torch.ones(1) * rank; d.all_reduce(t); t.item()"
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_group_computes_and_ends(run_script, method):
    script = run_script(
        GROUP + f"group = start({method!r}, 3)\n"
        "print(run(group, SUM), run(group, 'rank'))\n"
        "import psutil\npids = [m.pid for m in group.workers]\ngroup.shutdown()\n"
        "print([psutil.pid_exists(pid) for pid in pids])"
    )
    assert script.returncode == 0, script.stderr
    assert script.stdout.splitlines() == ["[3.0, 3.0, 3.0] [0, 1, 2]", "[False, False, False]"]


def test_two_groups_live_side_by_side(run_script):
    script = run_script(
        GROUP + "a, b = start('fork'), start('fork', 3)\n"
        "run(a, 'x = 1'); print(run(b, SUM), run(a, SUM), run(a, 'x'))\n"
        "a.shutdown(); print(run(b, SUM)); b.shutdown()"
    )
    assert script.returncode == 0, script.stderr
    assert script.stdout.splitlines() == [
        "[3.0, 3.0, 3.0] [1.0, 1.0] [1, 1]", "[3.0, 3.0, 3.0]",
    ]  # fmt: skip


def test_a_rank_that_cannot_start_is_reported_with_its_last_output(run_script):
    script = run_script(
        GROUP + "import os\nos.environ['GLOO_SOCKET_IFNAME'] = 'none'\n"
        "try:\n    start('fork')\nexcept Exception as error:\n    print(error)\n"
        "del os.environ['GLOO_SOCKET_IFNAME']\n"
        "group = start('fork'); print(run(group, 'rank')); group.shutdown()"
    )
    assert script.returncode == 0, script.stderr
    assert "did not start: it ended its process with exit code 1" in script.stdout
    assert "Unable to find address for: none" in script.stdout
    assert script.stdout.splitlines()[-1] == "[0, 1]"


def test_when_a_run_is_over_its_ranks_are_free_and_a_lost_one_is_known(run_script):
    script = run_script(
        GROUP + "from accelnb.engine.run import Run\n"
        "finish = Run.finish\n"
        "def look(one):\n"
        "    print(group.busy, [w.exit is not None for w in group.workers])\n"
        "    finish(one)\n"
        "Run.finish = look\n"
        "group = start('fork')\n"
        "run(group, 'rank')\n"
        "try:\n    run(group, 'import os; rank == 1 and os.kill(os.getpid(), 9)')\n"
        "except Exception as error:\n    print(type(error).__name__)\n"
        "group.make_ready(); print(run(group, SUM)); group.shutdown()"
    )
    assert script.returncode == 0, script.stderr
    assert script.stdout.splitlines() == [
        "False [False, False]", "False [False, True]", "RankError", "False [False, False]",
        "[1.0, 1.0]",
    ]  # fmt: skip
