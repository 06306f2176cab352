"""Two hundred faults and interrupts in random order leave nothing behind and lose no line."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import threading
import time

import psutil
import pytest

from accelnb.engine.failure import RankError, RunInterrupted
from accelnb.engine.group import WorkerGroup
from accelnb.engine.launchers.local import close_fork_server, fork_server
from accelnb.options.config import LaunchConfig

SEEDS = range(8)
ROUNDS = 25
RANKS = 2
MOST_SECONDS = 8.0  # of a round; a hang would be longer

START = """
import os, sys, time, torch, torch.distributed as dist
count = globals().get("count", 0)
def say():
    global count
    count += 1
    print(f"{rank}:{count}", flush=True)
say()
"""
CELLS = {
    "normal": "t = torch.ones(1); dist.all_reduce(t); say()",
    "loop": "while True: say()",
    "quiet loop": "while True: pass",
    "sleep": "time.sleep(60)",
    "collective": "if rank == 0: dist.barrier()\nelse: time.sleep(60)",
    "mismatch": "dist.barrier() if rank else dist.all_reduce(torch.ones(1))",
    "error": "if rank == victim: 1 / 0\ndist.barrier()",
    "exit": "if rank == victim: os._exit(3)\ndist.barrier()",
    "segfault": "if rank == victim: os.kill(os.getpid(), 11)\nwhile True: say()",
}
ENDS_ITSELF = ("normal", "error", "exit", "segfault")


def begin(group: WorkerGroup, code: str):
    cell = {"code": code, "source": code, "name": "<cell>", "number": 1}
    request = {"cell": cell, "result": True}
    return group.run("execute_request", {rank: (request, []) for rank in group.ranks})


def held(group: WorkerGroup) -> list[int]:
    """Return what a leak would make grow: descriptors, processes, files, threads."""
    server = psutil.Process(fork_server().process.pid)
    alive = [child for child in server.children() if child.status() != psutil.STATUS_ZOMBIE]
    files = len(list(fork_server().sockets.glob("*.sock"))) + len(os.listdir("/dev/shm"))
    return [
        psutil.Process().num_fds(),
        server.num_fds(),
        len(alive),
        files,
        psutil.Process().num_threads(),
    ]


@pytest.fixture(scope="module")
def group():
    gc.collect()  # sockets of earlier tests' notebooks are not to end while these are counted
    group = WorkerGroup(LaunchConfig(procs=RANKS, device="cpu", start="fork"))
    yield group
    group.shutdown()
    close_fork_server()


@pytest.mark.parametrize("seed", SEEDS)
def test_rounds(group, seed):
    chance = random.Random(seed)
    group.make_ready()
    assert begin(group, "count = 0").wait(MOST_SECONDS)
    before = held(group)
    counts = dict.fromkeys(group.ranks, 0)  # lines that each rank has printed so far
    for number in range(ROUNDS):
        kind = chance.choice(list(CELLS))
        victim = chance.randrange(RANKS)
        said = f"seed {seed}, round {number}: {kind}, victim {victim}"
        group.make_ready()
        pids = {member.rank: member.pid for member in group.workers}
        run = begin(group, f"victim = {victim}\n{START}\n{CELLS[kind]}")
        timer = None
        if kind not in ENDS_ITSELF or chance.random() < 0.3:
            pid = pids[victim]
            assert pid is not None
            fault = chance.choice([run.interrupt, lambda pid=pid: _kill(pid)])
            timer = threading.Timer(chance.random() * 0.15, fault)
            timer.start()
        started = time.monotonic()
        assert run.wait(MOST_SECONDS), f"{said}: not over after {time.monotonic() - started:.1f} s"
        if timer is not None:
            timer.join()  # it may have killed a rank that was already done
            dead = [m for m in group.workers if m.pid and not psutil.pid_exists(m.pid)]
            assert _settles(lambda dead=dead: all(m.exit for m in dead), True), said
        with contextlib.suppress(RankError, RunInterrupted):
            run.raise_if_failed()
        for rank in group.ranks:
            _check_lines(run, rank, counts, said)
        counts = _counts_on(group, said)
    assert _settles(lambda: held(group), before), f"seed {seed}: {before} -> {held(group)}"


def _check_lines(run, rank: int, counts: dict[int, int], said: str) -> None:
    """The log has each line that a rank printed, in order, the last perhaps cut by its death."""
    lines = run.logs(rank).splitlines()
    if rank in run.replaced:
        lines = lines[:-1]
    numbers = [int(line.split(":")[1]) for line in lines if line]
    expected = list(range(counts[rank] + 1, counts[rank] + 1 + len(numbers)))
    assert numbers == expected, f"{said}: rank {rank} printed {numbers[:3]}...{numbers[-3:]}"
    counts[rank] = numbers[-1] if numbers else counts[rank]


def _counts_on(group: WorkerGroup, seen: str) -> dict[int, int]:
    """Ask the ranks, which also have to be able to reduce, how many lines they printed."""
    group.make_ready()
    run = begin(
        group,
        "import torch, torch.distributed as dist\nt = torch.ones(1); "
        "dist.all_reduce(t); (globals().get('count', 0), t.item())",
    )
    assert run.wait(MOST_SECONDS), f"after {seen}: the next cell hangs"
    values = dict(zip(group.ranks, run.result, strict=True))
    assert {reduced for _, reduced in values.values()} == {float(RANKS)}, seen
    return {rank: count for rank, (count, _) in values.items()}


def _settles(now, expected) -> bool:
    end = time.monotonic() + 5
    while now() != expected and time.monotonic() < end:
        time.sleep(0.05)
    return now() == expected


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 9)
        psutil.Process(pid).wait(5)
