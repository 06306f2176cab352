"""What does a model cost whose weights are not where it computes? accelnb beside Accelerate.

A model of 25 linear layers, 420 MB, computes 256 rows on the CPU (``offloading_loops.py``). Each
contender has a process of its own, and they take turns. Figures are medians over all passes of all
turns but each process's first one.

disk
    Weights in files (`disk_offload`): in the page cache, and not in it.
cpu
    Weights in memory (`cpu_offload`).
loading
    A checkpoint of safetensors loaded into a model without memory: the peak beside what stays.

    python benchmarks/offloading.py --turns 3 --json offloading.json
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from kernel import machine
from offloading_loops import FILE, model
from report import (
    Budget,
    arguments,
    duration,
    megabytes,
    new_table,
    show_budgets,
    show_facts,
    write_json,
)
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from accelnb.utils import offload_state_dict

_LOOPS = Path(__file__).with_name("offloading_loops.py")
_CASES = ("disk, in the page cache", "disk, not in the page cache", "cpu", "loading")
_CONTENDERS = {"accelnb": "accelnb", "Accelerate": "accelerate"}

Results = dict[str, dict[str, dict[str, Any]]]


def measure(turns: int, passes: int) -> Results:
    """Return seconds a pass and MB at the peak, by case and contender."""
    results: Results = {case: {name: {"seconds": []} for name in _CONTENDERS} for case in _CASES}
    with TemporaryDirectory(dir=Path.cwd()) as folder:  # /tmp may be memory
        weights, checkpoint, out = (Path(folder, name) for name in ("weights", "whole", "out"))
        state = model("cpu").state_dict()
        offload_state_dict(weights, state)
        checkpoint.mkdir()
        save_file(state, checkpoint / FILE)
        for _ in range(turns):
            for case, by_name in results.items():
                source = checkpoint if case == "loading" else weights
                for name, module in _CONTENDERS.items():
                    command = [sys.executable, _LOOPS, module, case, source, str(passes), out]
                    subprocess.run(command, check=True, timeout=600)
                    found = json.loads(out.read_text())
                    by_name[name]["seconds"] += found.pop("seconds")
                    by_name[name]["peak"] = max(found.pop("peak"), by_name[name].get("peak", 0.0))
                    by_name[name] |= found
    return results


def table(results: Results) -> Table:
    found = new_table("Big models", "", "accelnb", "Accelerate", "accelnb / Accelerate")
    for case, by_name in results.items():
        times = [median(by_name[name]["seconds"]) for name in _CONTENDERS]
        found.add_row(case, *map(duration, times), f"{times[0] / times[1]:.2f}")
        peaks = [by_name[name]["peak"] for name in _CONTENDERS]
        found.add_row("  memory beside what was", *map(megabytes, peaks), "")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--turns", type=int, default=3, help="processes of each contender (3)")
    parser.add_argument("--passes", type=int, default=5, help="passes of each process (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all samples here")
    options = parser.parse_args(argv)
    console = Console() if sys.stdout.isatty() else Console(width=132)
    facts = machine()
    results = measure(options.turns, options.passes)
    show_facts(console, facts)
    console.print(table(results))
    loaded = results["loading"]["accelnb"]
    ratio = loaded["peak"] / loaded["stays"]
    found = [Budget("peak of loading ≤ 1.05 x what stays", f"{ratio:.3f} x", ratio <= 1.05)]
    show_budgets(console, found)
    if options.json:
        write_json(options.json, found, {"machine": facts, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
