"""What does dividing a model cost through the Accelerator? accelnb beside torch by hand.

The loops (``parallel_loops.py``) train a language model of 5 million weights with AdamW on 2 or 4
ranks (under torchrun, with gloo) and take turns, a block of steps each. Figures are medians over
the blocks; a ratio is the median of the blocks' ratios.

step
    DDP, FSDP, tensor parallelism and FSDP with it: seconds a step.
held
    Weights and optimizer states on the rank that has most, after a step.

What a start without values takes is measured by ``meta_start.py``.

    python benchmarks/parallel.py --blocks 11 --json parallel.json
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from kernel import OUT, machine, run_loops
from parallel_loops import MESHES
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

_LOOPS = Path(__file__).with_name("parallel_loops.py")
_STEPS = 5  # in a block


def measure(name: str, blocks: int) -> dict[str, Any]:
    """Run the loops once; return seconds a step and bytes held, by contender."""
    ranks = math.prod(MESHES[name].values())
    return run_loops(_LOOPS, ranks, [name, _STEPS, blocks, OUT])


def ratio(seconds: dict[str, list[float]]) -> float:
    pairs = zip(seconds["accelnb"], seconds["by hand"], strict=True)
    return median(a / b for a, b in pairs)


def table(results: dict[str, dict[str, Any]]) -> Table:
    contenders = ("by hand", "accelnb", "Accelerate")
    found = new_table("Divided models", "", *contenders, "accelnb / by hand")
    for name, result in results.items():
        seconds, held = result["step"], result["held"]
        sizes = ", ".join(f"{dimension}={size}" for dimension, size in MESHES[name].items())
        times = [duration(median(seconds[c])) if c in seconds else "" for c in contenders]
        found.add_row(f"{name} ({sizes})", *times, f"{ratio(seconds):.3f}")
        sizes_held = [megabytes(held[c] / 1e6) if c in held else "" for c in contenders]
        found.add_row("  held by a rank", *sizes_held, f"{held['accelnb'] / held['by hand']:.3f}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--blocks", type=int, default=11, help="blocks of steps each (11)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all samples here")
    options = parser.parse_args(argv)
    console = Console() if sys.stdout.isatty() else Console(width=132)
    facts = machine()
    with console.status("") as status:
        results = {}
        for name in MESHES:
            status.update(name)
            results[name] = measure(name, options.blocks)
    show_facts(console, facts)
    console.print(table(results))
    found = [
        Budget(
            f"{name} step ≤ 1.02 x by hand",
            f"{(times := ratio(result['step'])):.3f} x",
            times <= 1.02,
        )
        for name, result in results.items()
    ]
    show_budgets(console, found)
    if options.json:
        write_json(options.json, found, {"machine": facts, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
