"""What does a training step cost through the Accelerator? accelnb beside Accelerate and by hand.

The loops (``training_loops.py``) run in the same processes and take turns, a block of
steps each. Figures are medians over the blocks; a ratio is the median of the blocks' ratios.

own cost
    A tiny MLP in one process, where a step is almost nothing: microseconds a step above the loop
    by hand. With accumulate, clipping and a scheduler, as loops are written.
step
    DDP on 2 ranks (under torchrun, with gloo): the MLP, and a small transformer for throughput.
outputs
    A GPT in bf16 in one process, with its outputs converted to fp32 and left as they were computed:
    on a GPU one of 124M parameters with 16 x 1,024 tokens, on the CPU a tiny one.
prepare
    ``Accelerator.prepare``, and by hand the DDP constructor.
import
    ``import accelnb``, and the import that brings ``Accelerator``, in fresh interpreters.

With ``--device cuda`` each rank has a GPU of its own and they talk through nccl; what needs more
GPUs than there are is not measured.

    python benchmarks/training.py --blocks 21 --json training.json
    python benchmarks/training.py --device cuda
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from kernel import OUT, import_times, machine, run_loops
from report import (
    Budget,
    arguments,
    duration,
    new_table,
    show_budgets,
    show_facts,
    write_json,
)
from rich.console import Console
from rich.table import Table
from training_loops import CONTENDERS, IN_BF16

_LOOPS = Path(__file__).with_name("training_loops.py")
_RUNS = (  # model, ranks, steps in a block
    ("mlp", 1, 500),
    ("mlp", 2, 100),
    ("transformer", 2, 10),
    ("gpt", 1, 5),
)
_GPT = "gpt, 1 rank"
_IMPORTS = (
    "import accelnb",
    "from accelnb import Accelerator",
    "from accelerate import Accelerator",
)


def measure(model: str, ranks: int, steps: int, blocks: int, device: str) -> dict[str, Any]:
    """Run the loops once; return seconds a step and of prepare, by contender."""
    return run_loops(_LOOPS, ranks, [model, steps, blocks, OUT, device])


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    return median(a / b for a, b in zip(over, under, strict=True))


def table(results: dict[str, dict[str, Any]], imports: dict[str, float]) -> list[Table]:
    compared = ("accelnb / by hand", "Accelerate / by hand")
    steps = new_table("A step", "loop", *CONTENDERS, *compared)
    for name, result in results.items():
        seconds = result["step"]
        if seconds.keys() != set(CONTENDERS):
            continue
        steps.add_row(
            name,
            *(duration(median(seconds[c])) for c in CONTENDERS),
            *(f"{ratio(seconds[c], seconds['by hand']):.3f}" for c in CONTENDERS[1:]),
        )
        steps.add_row("  prepare()", *(duration(result["prepare"][c]) for c in CONTENDERS), "", "")
    imported = new_table("Imports", "statement", "")
    for statement, second in imports.items():
        imported.add_row(statement, duration(second))
    in_bf16 = (outputs_table(results[_GPT]),) if _GPT in results else ()
    return [steps, *in_bf16, imported]


def outputs_table(result: dict[str, Any]) -> Table:
    first = IN_BF16[0]
    found = new_table("A step of a GPT in bf16", "loop", "", f"/ {first}")
    for name, seconds in result["step"].items():
        times = ratio(seconds, result["step"][first])
        found.add_row(name, duration(median(seconds)), f"{times:.3f}")
    return found


def budgets(results: dict[str, dict[str, Any]], imports: dict[str, float]) -> list[Budget]:
    alone = results["mlp, 1 rank"]["step"]
    own, theirs = (
        median(a - b for a, b in zip(alone[name], alone["by hand"], strict=True)) * 1e6
        for name in CONTENDERS[1:]
    )
    light = imports[_IMPORTS[0]]
    return [
        Budget(
            "own cost ≤ 0.7 x Accelerate's",
            f"{own:.0f} µs a step, Accelerate {theirs:.0f} µs: {own / theirs:.2f} x",
            own <= 0.7 * theirs,
        ),
        *budgets_of_ddp(results.get("transformer, 2 ranks")),
        Budget("import accelnb ≤ 60 ms", duration(light), light <= 0.060),
    ]


def budgets_of_ddp(result: dict[str, Any] | None) -> list[Budget]:
    named = {"DDP step ≤ 1.02 x by hand": "by hand", "DDP step ≤ Accelerate's": "Accelerate"}
    if result is None:
        return [Budget(budget, "", None) for budget in named]
    step, found = result["step"], []
    for budget, peer in named.items():
        times = ratio(step["accelnb"], step[peer])
        most = 1.02 if peer == "by hand" else 1.0
        found.append(Budget(budget, f"{times:.3f} x (transformer)", times <= most))
    return found


def most_ranks(device: str) -> int:
    if device == "cpu":
        return max(ranks for _, ranks, _ in _RUNS)
    import torch

    return torch.cuda.device_count()


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--blocks", type=int, default=21, help="blocks of steps each (21)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all samples here")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    options = parser.parse_args(argv)
    if not (most := most_ranks(options.device)):
        raise SystemExit("--device cuda: torch finds no CUDA GPU here")
    console = Console() if sys.stdout.isatty() else Console(width=132)
    facts = machine() | {"ranks on": options.device}
    results: dict[str, dict[str, Any]] = {}
    with console.status("imports") as status:
        imports = {said: median(import_times(said, times=5)) for said in _IMPORTS}
        for model, ranks, steps in _RUNS:
            name = f"{model}, {ranks} rank{'s' * (ranks > 1)}"
            status.update(name)
            if ranks <= most:
                results[name] = measure(model, ranks, steps, options.blocks, options.device)
    show_facts(console, facts)
    for shown in table(results, imports):
        console.print(shown)
    found = budgets(results, imports)
    show_budgets(console, found)
    if options.json:
        samples = {"machine": facts, "results": results, "imports": imports}
        write_json(options.json, found, samples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
