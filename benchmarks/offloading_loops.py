"""The passes that ``offloading.py`` times: one model whose weights are kept on disk or CPU.

Started by ``offloading.py``, a process for each contender and turn. It writes seconds a pass, and
memory in MB: what the process had before, at most in the passes, and after them.

    python benchmarks/offloading_loops.py accelnb disk folder 5 out.json
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

BLOCKS, WIDTH, ROWS = 25, 2048, 256  # 420 MB
FILE = "model.safetensors"


def model(device: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH, device=device) for _ in range(BLOCKS)))


def memory(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(f"{field}:"))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def forget_pages(folder: Path) -> None:
    """Have the files of a folder read from the disk again."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def passes(contender: Any, case: str, folder: Path, times: int) -> dict[str, Any]:
    if case == "cpu":
        placed = contender.cpu_offload(model("cpu"), "cpu")
    else:
        placed = contender.disk_offload(model("meta"), folder, "cpu")
    x, seconds = torch.randn(ROWS, WIDTH), []
    before = memory("VmRSS")
    forget_peak()
    with torch.no_grad():
        for _ in range(times + 1):
            if case == "disk, not in the page cache":
                forget_pages(folder)
            start = time.perf_counter()
            placed(x)
            seconds.append(time.perf_counter() - start)
    peak = memory("VmHWM") - before
    return {"seconds": seconds[1:], "peak": peak}  # the first pass learns the order


def loading(contender: Any, folder: Path) -> dict[str, Any]:
    before = memory("VmRSS")
    forget_peak()
    start = time.perf_counter()
    placed = contender.load_checkpoint_and_dispatch(
        model("meta"), str(folder / FILE), device_map={"": "cpu"}
    )
    seconds = time.perf_counter() - start
    stays = sum(parameter.nbytes for parameter in placed.parameters()) / 1e6
    return {"seconds": [seconds], "peak": memory("VmHWM") - before, "stays": stays}


def main(name: str, case: str, folder: str, times: str, out: str) -> None:
    contender = import_module(name)
    if case == "loading":
        result = loading(contender, Path(folder))
    else:
        result = passes(contender, case, Path(folder), int(times))
    Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
