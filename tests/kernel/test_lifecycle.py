"""Nothing is left behind, however the notebook ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from harness import START, wait_until

SOON = 5.0  # s; promised are 2


def folders_of(notebook) -> list[Path]:
    code = "from accelnb.engine.launchers.local import fork_server as f\n"
    found = notebook.run(code + "[str(f().folder), str(f().sockets)]").value
    return [Path(folder) for folder in eval(found)]


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in a cell"])
@pytest.mark.parametrize("end", ["kill", "restart", "shutdown", "exit"])
def test_everything_ends_with_the_kernel(notebook, end, busy):
    notebook.run("%distributed --procs 2 rank")
    folders, below = folders_of(notebook), notebook.processes()
    if busy:
        cell = "%%distributed --detach\nimport torch.distributed as dist\nif rank: dist.barrier()"
        notebook.run(cell + "\nwhile True: pass")
    if end == "kill":
        notebook.kill()
    elif end == "restart":
        notebook.manager.restart_kernel(now=False)
    elif end == "shutdown":
        notebook.manager.shutdown_kernel(now=False)
    else:
        notebook.client.execute("exit()")
    assert wait_until(lambda: not any(process.is_running() for process in below), SOON)
    assert wait_until(lambda: not any(folder.exists() for folder in folders), SOON)
    if end == "restart":
        notebook.client.wait_for_ready(timeout=START)
        notebook.load()
        assert notebook.run("%distributed --procs 2 rank").lines == ["[0] 0", "[1] 1"]


def test_a_kernel_killed_while_its_ranks_start_leaves_nothing(notebook):
    folders = folders_of(notebook)
    notebook.client.execute("%distributed --procs 2 --start spawn rank")
    assert wait_until(lambda: len(notebook.processes()) > 1, 30)
    below = notebook.processes()
    notebook.kill()
    assert wait_until(lambda: not any(process.is_running() for process in below), SOON)
    assert wait_until(lambda: not any(folder.exists() for folder in folders), SOON)


def test_thirty_groups_leak_nothing(run_script):
    script = run_script(
        """
import os, psutil, time, accelnb
from accelnb.engine.launchers.local import fork_server

def work(n):
    import torch, torch.distributed as dist
    big = torch.full((1 << 20,), float(n))
    dist.all_reduce(big)
    print("round", n)
    return big

def held():
    server = psutil.Process(fork_server().process.pid)
    here = psutil.Process()
    files = [f for f in fork_server().sockets.glob("*.sock")]
    return (here.num_fds(), server.num_fds(), len(server.children()), here.num_threads(),
            len(os.listdir("/dev/shm")), len(files))

for n in range(3):
    assert accelnb.launch(work, n, procs=2)[1][0] == 2 * n
before = held()
for n in range(30):
    accelnb.launch(work, n, procs=2)
def grown():
    return [(was, now) for was, now in zip(before, held()) if now > was]

end = time.monotonic() + 5
while grown() and time.monotonic() < end:  # the server closes the last group's channel
    time.sleep(0.05)
assert not grown(), (before, held())
"""
    )
    assert script.returncode == 0, script.stdout + script.stderr


def test_a_script_that_is_killed_takes_its_ranks_along(tmp_path):
    code = (
        "import accelnb, time\n"
        "def work():\n    print('ranks', flush=True); time.sleep(100)\n"
        "accelnb.launch(work, procs=2)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as script:
        assert script.stdout is not None
        assert "ranks" in script.stdout.readline()
        below = psutil.Process(script.pid).children(recursive=True)
        os.kill(script.pid, 9)
        script.wait(10)
        assert wait_until(lambda: not any(process.is_running() for process in below), SOON)
    assert len(below) == 3
