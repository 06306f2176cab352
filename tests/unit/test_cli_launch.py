"""`accelnb launch`: what it starts, what it says when that fails, how it ends."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from harness import assert_ended, wait_until

from accelnb.cli.launch import command
from accelnb.cli.launching import find_target
from accelnb.cli.launching.mpi_slurm import started
from accelnb.cli.launching.restart_messages import told

FAILS = """\
import os, signal, sys
import torch.distributed as dist

def report(rank):
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        dist.barrier()
        os.kill(os.getpid(), signal.SIGKILL if rank else signal.SIGTERM)
    names = "ACCELERATE_MIXED_PRECISION", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
    more = "ACCELNB_OUTPUTS", "ACCELERATE_USE_CPU", "WORLD_SIZE"
    said = [os.environ[name] for name in (*names, *more)]
    print(f"{rank}: {said} {sys.argv[1:]}\\n", end="", flush=True)
    dist.barrier()
    raise ValueError("the loss is not a number")

dist.init_process_group("gloo")
report(dist.get_rank())
"""

WAITS = """\
import os, sys, time, torch, torch.distributed as dist
from pathlib import Path
dist.init_process_group("gloo")
dist.barrier()
Path(f"pid-{dist.get_rank()}").write_text(str(os.getpid()))
try:
    if dist.get_rank() == 1:
        dist.all_reduce(torch.ones(1))  # the other never comes
    time.sleep(60)
finally:
    Path(f"cleaned-{dist.get_rank()}").touch()
"""


def start(*words: str, cwd: Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "accelnb", "launch", *words],
        cwd=cwd,
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, stdout, stderr


def test_ranks_start_again_and_their_error_is_shown_once_and_options_reach_the_script(tmp_path):
    (tmp_path / "train.py").write_text(FAILS)
    (tmp_path / "accelnb.yaml").write_text(
        "version: 1\nprecision: bf16\naccumulation: 2\noutputs: compute\n"
    )
    options = ("--accumulation", "4", "--nproc_per_node=2", "--max-restarts", "1")
    code, stdout, stderr = ended(start(*options, "train.py", "--lr", "0.1", cwd=tmp_path))
    assert code == 1
    said = "['bf16', '4', 'compute', 'true', '2'] ['--lr', '0.1']"
    assert sorted(stdout.splitlines()) == [f"0: {said}", f"1: {said}"]
    first, _, rest = stderr.partition("\n")
    assert re.fullmatch("accelnb: rank . was killed by SIG.*; starting again, 1 of 1", first)
    lines = rest.splitlines()
    # The launcher stops what still runs: whether both ranks came to their error is not certain.
    who = lines[0].strip("- ")
    assert who in ("ranks 0-1", "rank 0", "rank 1")
    assert lines[1:3] == ["Traceback (most recent call last):", lines[2]]
    assert lines[2] == '  File "train.py", line 16, in <module>'
    told = f"accelnb: {who}: ValueError: the loss is not a number (train.py, line 13)"
    assert lines[-1] == told
    assert stderr.count("Traceback") == 1


def test_ctrl_c_ends_every_rank_also_one_that_waits_in_a_collective(tmp_path):
    (tmp_path / "train.py").write_text(WAITS)
    process = start("-n", "2", "train.py", cwd=tmp_path)
    files = [tmp_path / f"pid-{rank}" for rank in range(2)]
    assert wait_until(lambda: all(f.exists() and f.read_text() for f in files), 60)
    time.sleep(0.3)  # until rank 1 is in its collective
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    code, _, stderr = ended(process)
    assert time.monotonic() - begun < 10
    assert (code, stderr) == (130, "accelnb: stopped by SIGINT; all processes have ended\n")
    assert (tmp_path / "cleaned-0").exists()  # its `finally` ran
    assert_ended({int(file.read_text()) for file in files})


def test_another_program_is_launched_and_its_exit_code_comes_back(tmp_path):
    script = "echo $RANK of $WORLD_SIZE; test $RANK = 0 || exit 7"
    words = ("--no-python", "-n", "2", "sh", "-c", script)
    code, stdout, stderr = ended(start(*words, cwd=tmp_path))
    assert (code, stderr) == (7, "accelnb: rank 1 ended its process with exit code 7\n")
    assert sorted(stdout.split("\n")[:-1]) == ["0 of 2", "1 of 2"]


def test_a_process_of_mpirun_runs_a_notebook_in_place_as_the_script_that_it_exports_to(tmp_path):
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    names = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"
    source = f"import os, beside\nprint(os.getpid(), [os.environ[n] for n in {names}], rank)\n1 / 0"
    document = {"cells": [cell | {"source": f"%%distributed\n{source}"}], "nbformat": 4}
    notebook = tmp_path / "below" / "my train.ipynb"
    notebook.parent.mkdir()
    notebook.write_text(json.dumps(document))
    (tmp_path / "below" / "beside.py").write_text("open('beside.txt', 'w')\n")
    names = "RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"
    place = {f"OMPI_COMM_WORLD_{n}": v for n, v in zip(names, "0101", strict=True)}
    process = start("below/my train.ipynb", cwd=tmp_path, **place)
    code, stdout, stderr = ended(process)
    assert stdout == f"{process.pid} ['0', '1', '0', '1', '127.0.0.1'] 0\n", stderr
    assert code == 1
    assert (tmp_path / "below" / "beside.txt").exists()  # it works where its kernel would
    lines = stderr.splitlines()
    assert lines[:2] == ["--- rank 0 ---", "Traceback (most recent call last):"]
    assert lines[-2:] == [
        "ZeroDivisionError: division by zero",
        "accelnb: lines are those of the script: "
        "accelnb export 'below/my train.ipynb' -o my_train.py",
    ]
    script = Path(lines[2].partition('"')[2].partition('"')[0])
    assert script.name == "my_train.py"
    assert not script.parent.exists()


WRONG = {
    "no such file": (("nothing.py",), "nothing.py: no such file or directory"),
    "no Python": (("text.py",), "text.py, line 2: is not Python"),
    "no such module": (("-m", "no.such.module"), "no.such.module: no such module"),
    "no such program": (("--no-python", "no-such"), "no-such: no such program"),
    "a word for a number": (("--max-restarts", "x", "ok.py"), "--max-restarts: invalid int value"),
    "no ranks": (("-n", "0", "ok.py"), "procs=0: must be a whole number of at least 1"),
    "no device": (("--device", "tpu", "ok.py"), "device=tpu: not found on this machine"),
    "no device of a notebook's cell": (("xpu.ipynb",), "device=xpu: not found on this machine"),
    "another device than that of a notebook's cell": (
        ("--device", "cpu", "xpu.ipynb"),
        "device=cpu: the cells of xpu.ipynb say device=xpu: change the cell",
    ),
    "no notebook": (("bad.ipynb",), "bad.ipynb, line 1: is not a notebook"),
    "twice": (("-n", "2", "--nproc-per-node", "2", "ok.py"), "say the same; give one of them"),
    "no meeting point": (("--nnodes", "2", "ok.py"), "--nnodes 2: say where the machines meet"),
    "no range": (("--nnodes", "3:2", "ok.py"), "--nnodes 3:2: give a number, or MIN:MAX"),
    "each its own meeting point": (
        ("--nnodes", "2", "--rdzv-endpoint", "localhost:29400", "ok.py"),
        "localhost is each machine itself",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_one_line_and_nothing_starts(case, tmp_path, monkeypatch):
    words, message = WRONG[case]
    monkeypatch.chdir(tmp_path)
    Path("text.py").write_text("x = 1\nhello there\n")
    Path("ok.py").write_text("open('started', 'w')\n")
    Path("bad.ipynb").write_text("no\n")
    cell = {"cell_type": "code", "source": "%%distributed --device xpu\nopen('started', 'w')\n"}
    Path("xpu.ipynb").write_text(json.dumps({"cells": [cell]}))
    Path("accelnb.yaml").write_text("device: cpu\n")  # a cell's options win
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert message in line
    assert not Path("started").exists()


def test_the_device_that_is_asked_for_is_that_of_a_notebooks_script(tmp_path):
    cell = {"cell_type": "code", "source": "%%distributed\nprint(device)"}
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": [cell]}))
    (tmp_path / "accelnb.yaml").write_text("version: 1\ndevice: cpu\naccumulation: 2\n")
    found = find_target(str(path), device="cuda").exported
    assert found is not None
    assert "ACCELERATE_USE_CPU" not in found.script
    assert (found.config.device, found.config.accumulation) == ("cuda", 2)


def test_a_restart_is_told_once_and_what_torch_logs_of_it_stays_as_asked_for(capsys, caplog):
    names = "multiprocessing.api", "agent.server.api"
    processes, agent = (logging.getLogger(f"torch.distributed.elastic.{name}") for name in names)
    before = processes.level, agent.level
    processes.setLevel(logging.WARNING)
    agent.setLevel(logging.CRITICAL + 1)
    for _ in range(2):  # launches of one process
        with told(3, "rank"):
            processes.error("failed (exitcode: %s) local_rank: %s (pid: %s)", 7, 1, 99)
            agent.info("[%s] Worker group %s. %s/%s attempts left;", "default", "FAILED", 2, 3)
            agent.info("[%s] Worker group %s.", "default", "FAILED")  # of another torch
    assert (processes.level, agent.level) == (logging.WARNING, logging.CRITICAL + 1)
    processes.setLevel(before[0])
    agent.setLevel(before[1])
    line = "accelnb: rank 1 ended its process with exit code 7; starting again, 2 of 3\n"
    assert capsys.readouterr().err == line * 2
    assert [record.name for record in caplog.records] == [processes.name] * 2


def test_processes_that_share_a_gpu_are_told_so_however_their_number_was_given(tmp_path):
    one_gpu = "import accelnb.devices.hardware as h\n"
    one_gpu += "h.probe = lambda: h.Hardware({'cpu': 8, 'cuda': 1})\n"
    (tmp_path / "sitecustomize.py").write_text(one_gpu)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    script = 'echo "$RANK shares: $ACCELNB_SHARED_DEVICE"'
    words = ("--no-python", "sh", "-c", script)
    for given in (("--nproc-per-node", "2"), ("-n", "2", "--device", "cuda")):
        code, stdout, stderr = ended(start(*given, *words, cwd=tmp_path, PYTHONPATH=path))
        assert (code, sorted(stdout.split())) == (
            0,
            ["0", "1", "shares:", "shares:", *["true"] * 2],
        )
        assert stderr.startswith("accelnb: 2 ranks share 1 cuda device: they take turns on it")
        assert stderr.count("\n") == 1
    code, stdout, stderr = ended(start(*words, cwd=tmp_path, PYTHONPATH=path))
    assert (code, stdout, stderr) == (0, "0 shares: \n", "")


def test_every_argument_of_torchrun_is_accepted_by_its_own_name():
    import rich_click as click
    from torch.distributed.run import get_args_parser

    taken = {flag for p in command.get_params(click.Context(command)) for flag in p.opts}
    for action in get_args_parser()._actions[1:]:
        for flag in action.option_strings:
            assert flag.replace("_", "-") in taken, flag


def test_the_place_among_processes_of_srun_is_that_of_a_step_not_of_a_batch_script():
    batch = {"SLURM_JOB_ID": "12", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "3"}
    assert started(batch, parent=1) is None
    step = batch | {
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "3",
        "SLURM_STEP_TASKS_PER_NODE": "2,1",
        "SLURM_STEP_NODELIST": "gpu[3,7]",
        "SLURM_NODEID": "1",
        "SLURM_PROCID": "2",
        "PMI_RANK": "2",
        "PMI_SIZE": "3",
    }
    place = started(step, parent=1)
    assert place is not None
    assert (place.by, place.rank, place.size, place.node, place.nodes) == ("Slurm", 2, 3, 1, 2)
    assert (place.local_rank, place.local_size, place.main_host) == (0, 1, "gpu3")
    other = started(step | {"SLURM_PROCID": "0", "SLURM_NODEID": "0"}, parent=99)
    assert other is not None
    assert other.port == place.port
