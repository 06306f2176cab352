"""What does it take to load a checkpoint by device map? Beside it Accelerate, in the same run.

A model of linear layers without values is filled from a checkpoint of one file, all of it on the
CPU or all of it offloaded to the disk, each time in a process of its own. The table has the time,
and the peak of memory over the size of the model (``anonymous_memory.py``). Accelerate leaves
weights of safetensors files on the CPU mapped: that takes no memory until they are changed, but
they change, or the process ends, when the file is written anew. Files are in the page cache.

    python benchmarks/big_model.py --layers 96 --times 5
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from anonymous_memory import MIB, peak
from report import arguments, duration, new_table
from rich.console import Console
from torch import nn

CONTENDERS = ("accelnb", "accelerate")
_WIDTH = 1024
_WAYS = [
    (ending, place, dtype)
    for ending in ("safetensors", "bin")
    for place in ("cpu", "disk")
    for dtype in ("float32", "bfloat16")
]


def model(layers: int) -> nn.Module:
    """Return one of 4 MiB a layer."""
    return nn.Sequential(*(nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(layers)))


def load(contender: str, file: str, place: str, dtype: str, layers: int) -> dict[str, float]:
    """Load a checkpoint in this process; return what it took."""
    import importlib

    its: Any = importlib.import_module(contender)
    with tempfile.TemporaryDirectory() as folder:
        small = nn.Linear(2, 2)
        torch.save(small.state_dict(), f"{folder}/small.bin")
        its.load_checkpoint_in_model(small, f"{folder}/small.bin", {"": "cpu"})  # imports
        with its.init_empty_weights():
            filled = model(layers)
        with peak() as found:
            its.load_checkpoint_in_model(filled, file, {"": place}, folder, dtype=dtype)
    return found


def measure(
    contender: str, file: Path, way: tuple[str, str], layers: int, times: int
) -> dict[str, float]:
    """Return the median time and the largest peak of loads in new processes."""
    command = [sys.executable, __file__, "--load", contender, str(file), *way, str(layers)]
    found: list[dict[str, float]] = []
    for _ in range(times):
        ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        found.append(json.loads(ended.stdout.splitlines()[-1]))
    return {
        "seconds": median(it["seconds"] for it in found),
        "peak": max(it["peak"] for it in found),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--times", type=int, default=3)
    chosen = parser.parse_args()
    size = chosen.layers * _WIDTH * _WIDTH * 4 / MIB
    headings = (f"{name} {figure}" for name in CONTENDERS for figure in ("time", "peak"))
    table = new_table(f"loading a model of {size:.0f} MiB", "file", "to", "as", *headings)
    with tempfile.TemporaryDirectory() as folder:
        from safetensors.torch import save_file

        state = model(chosen.layers).state_dict()
        save_file(state, f"{folder}/model.safetensors", {"format": "pt"})
        torch.save(state, f"{folder}/model.bin")
        del state
        for ending, *way in _WAYS:
            row: list[str] = []
            for contender in CONTENDERS:
                file = Path(folder, f"model.{ending}")
                place, dtype = way
                found = measure(contender, file, (place, dtype), chosen.layers, chosen.times)
                row += [duration(found["seconds"]), f"{found['peak'] / size:.2f} x"]
            table.add_row(ending, *way, *row)
    Console(width=100).print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--load"]:
        contender, file, place, dtype, layers = sys.argv[2:]
        print(json.dumps(load(contender, file, place, dtype, int(layers))))
    else:
        main()
