"""What the benchmarks start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SEEN = """
from kernel import Kernel
for device in ("cpu", "cuda"):
    with Kernel(60, device) as kernel:
        print(kernel.run("import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))").output)
"""


def test_kernels_see_the_gpus_of_the_environment_unless_cpu_ranks_are_measured():
    done = subprocess.run(
        [sys.executable, "-c", SEEN],
        cwd=BENCHMARKS,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "0,3"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["''", "'0,3'"], done.stderr
