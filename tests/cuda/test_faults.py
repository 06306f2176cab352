"""What goes wrong on a GPU is said plainly; variables are kept, memory is given back."""

from __future__ import annotations

import threading
import time

import pytest
from harness import wait_until

pytestmark = pytest.mark.alone  # it measures time

SOON = 6.0  # s; promised are 3
SUM = "t = torch.ones(1, device=device); dist.all_reduce(t)\n"


def stopped(ranks, cell: str):
    """Run a cell, press the stop button when it has printed, return its output."""
    pressed = []

    def press(output):
        if "[0-1] at work" in output.stdout and not pressed:
            pressed.append(time.monotonic())
            threading.Timer(0.5, ranks.notebook.interrupt).start()

    output = ranks(cell, fails=True, on_output=press)
    assert time.monotonic() - pressed[0] < SOON
    return output


@pytest.mark.parametrize(
    "waits",
    [
        # A collective whose partner never comes: nccl's with two GPUs, gloo's on a shared one.
        "if rank == 0:\n    {all_reduce}; t.item()\nelse:\n    while True: pass",
        "if rank == 0:\n    {all_reduce}; torch.cuda.synchronize()\nelse:\n    time.sleep(100)",
        # Two groups wait at once, each for the other's rank.
        "mine = groups[rank]\ndist.all_reduce(t, group=mine); t.item()\nwhile True: pass",
    ],
    ids=["value", "synchronize", "two groups"],
)
def test_stop_in_a_collective_keeps_variables_and_gives_a_new_group(ranks, waits):
    ranks(
        "import time\nkept = torch.full((3,), float(rank), device=device)\n"
        f"{SUM}groups = [dist.new_group([0, 1]) for _ in range(2)]"
    )
    before = ranks.values("os.getpid()")
    waits = waits.format(all_reduce="dist.all_reduce(t)")
    output = stopped(
        ranks, f"t = torch.ones(1, device=device)\nprint('at work', flush=True)\n{waits}"
    )
    assert "KeyboardInterrupt: stopped ranks 0-1; variables are kept" in output.error
    for _ in range(2):
        assert ranks.values(f"{SUM}t.item(), kept.tolist()") == [
            (2.0, [0.0] * 3), (2.0, [1.0] * 3),
        ]  # fmt: skip
    assert ranks.values("os.getpid()") == before


def test_an_error_on_one_rank_ends_a_collective_of_the_other(ranks):
    ranks("kept = rank")
    output = ranks(f"if rank == 1: 1 / 0\n{SUM}t.item()", fails=True)
    assert output.seconds < SOON
    assert "RankError: rank 1: ZeroDivisionError: division by zero" in output.error
    assert ranks.values(f"{SUM}t.item(), kept") == [(2.0, 0), (2.0, 1)]


def test_a_rank_that_dies_in_a_collective_is_replaced_and_its_memory_is_free(ranks):
    ranks(f"{SUM}kept = rank\nheld = torch.zeros(1 << 28, device=device)  # 1 GiB")
    before = used()
    output = ranks(f"if rank == 1: os.kill(os.getpid(), 9)\n{SUM}t.item()", fails=True)
    assert output.seconds < SOON
    assert "RankError: rank 1 was killed by SIGKILL" in output.error
    assert wait_until(lambda: used() <= before - (1 << 30), 10)
    assert ranks.values(
        f"import os, torch, torch.distributed as dist\n{SUM}t.item(), globals().get('kept')"
    ) == [(2.0, 0), (2.0, None)]


def used() -> int:
    """Return the bytes in use on all GPUs, by the driver."""
    import pynvml

    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    return sum(int(pynvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in handles)


OUT_OF_MEMORY = """
model = torch.nn.Linear(4096, 4096, bias=False, device=device)
cache = [torch.zeros(1 << 22, device=device) for _ in range(4)]
def train():
    batch = torch.zeros(1 << 27, device=device)
    model(torch.ones(8, 4096, device=device)).sum().backward()
    torch.zeros(1 << 50, dtype=torch.uint8, device=device)
if rank == 1: train()
"""


def test_out_of_memory_names_the_rank_and_what_held_the_memory_and_gives_it_back(ranks):
    error = ranks(OUT_OF_MEMORY, fails=True).error
    said = error[error.index("RankError: ") :]
    assert "RankError: rank 1: OutOfMemoryError: CUDA out of memory" in said
    assert " were asked for on cuda:" in said
    assert "  batch in train(): tensor 512.00 MiB" in said
    assert "  model: parameters 64.00 MiB, gradients 64.00 MiB" in said
    assert "  cache: list of 4 tensors 64.00 MiB" in said
    assert "del cache, or accelnb.utils.find_executable_batch_size" in said
    allocated, reserved = ranks.values(
        "torch.cuda.memory_allocated() >> 20, torch.cuda.memory_reserved() >> 20"
    )[1]
    assert 192 <= allocated < 512  # the batch is gone
    assert reserved < allocated + 128  # and so is what torch kept of it
    ranks("del model, cache, train")


def test_the_batch_size_that_fits_is_found(ranks):
    ranks("torch.cuda.empty_cache()")
    found, tried, room = ranks.values(
        "from accelnb.utils import find_executable_batch_size\n"
        "total, tried = torch.cuda.mem_get_info()[1], []\n"
        "@find_executable_batch_size(starting_batch_size=64)\n"
        "def fit(batch_size):\n"
        "    tried.append(batch_size)\n"
        "    del_me = torch.empty(batch_size * total // 32, dtype=torch.uint8, device=device)\n"
        "    return batch_size\n"
        "found = fit() if rank == 0 else None\n"
        "torch.cuda.empty_cache(); (found, tried, torch.cuda.mem_get_info()[0] / total)"
    )[0]
    assert tried[0] == 64
    assert tried[-1] == found < 32
    assert tried[-2] / 32 > room - 0.05  # the one before did not fit


def test_a_kernel_that_fails_reads_like_an_error_and_a_restart_mends_it(ranks):
    bad = "torch.zeros(2, device=device)[torch.tensor([5], device=device)].tolist()"
    output = ranks(f"if rank == 1: {bad}", fails=True)
    assert "rank 1: " in output.error
    assert "CUDA error: device-side assert triggered" in output.error
    assert "was killed" not in output.error
    ranks.notebook.run("%accelnb restart", timeout=100)
    ranks("import os, torch, torch.distributed as dist")
    assert ranks.values(f"{SUM}t.item()") == [2.0, 2.0]
