"""How fast do ranks start, and how fast is a cell on them? accelnb beside its peers.

Each contender (``peers.py``) is driven in a real Jupyter kernel of its own (``kernel.py``), with
the cells that its users write. All run CPU ranks with gloo; with ``--device cuda``, ranks on a GPU
each with nccl, or with gloo where there are fewer GPUs. Every figure is from the same run on the
same machine. The contenders take turns, ``--kernels`` times, each time in a fresh kernel.

What is measured, for each number of ranks:

load
    The cell with ``%load_ext`` or the import; and whether it imported torch into the kernel.
start
    From sending the cell that asks for the ranks until the first all_reduce was done on the last
    rank. The kernel has done its load; accelnb's fork server is warm.
cold
    The same with the load cell, and without any wait between the two.
first
    The cell in which the first all_reduce ran, as the front end sees it.
warm
    A cell with one all_reduce of a scalar, repeated: p50 and p99. A launcher keeps no ranks, so
    that its warm cell is another call of it.
pass
    A cell with ``pass`` in the same kernel, before ranks were started: the floor. Warm and pass
    cells are timed from sending the ``execute_request`` to receiving the ``idle`` status.
memory
    PSS of a rank (mean), read by the ranks while all are alive; and of the contender's other
    processes together (fork server, controller, nannies), without the kernel.

Times are medians over all kernels. A contender that is missing, fails or hangs is reported with
the reason, and the others run on. Linux only (it reads /proc).

    python benchmarks/launch.py --ranks 2,8 --repeats 100 --json launch.json
    python benchmarks/launch.py --device cuda --ranks 2
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import math
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

from kernel import Cell, CellError, Kernel, import_times, machine, memory
from peers import CONTENDERS, Contender
from report import Result, arguments, show, write_json
from rich.console import Console


def stamps(kernel: Kernel, kind: str, ranks: int) -> list[str]:
    """What the ranks wrote to their files of one kind."""
    found = [path.read_text() for path in kernel.folder.glob(f"{kind}-*")]
    if len(found) != ranks:
        raise CellError(f"{len(found)} of {ranks} ranks finished the cell")
    return found


@dataclass(frozen=True)
class Launch:
    """How many ranks are started, and on what they compute."""

    ranks: int
    device: str

    def cell(self, text: str) -> str:
        """A contender's cell, made for these ranks."""
        for name, value in (("<N>", str(self.ranks)), ("<DEVICE>", self.device)):
            text = text.replace(name, value)
        return text.replace("<BACKEND>", self._backend())

    def _backend(self) -> str:
        if self.device == "cpu" or self.ranks > gpus():
            return "gloo"
        return "cpu:gloo,cuda:nccl"


@functools.cache
def gpus() -> int:
    import torch

    return torch.cuda.device_count()


def start_ranks(kernel: Kernel, contender: Contender, launch: Launch) -> tuple[Cell, float, float]:
    """Send the cells up to the first all_reduce.

    Returns
    -------
    tuple
        The first cell; when the first request was sent; when the last rank was done.
    """
    cells = [launch.cell(text) for text in (*contender.start, contender.first)]
    done = [kernel.run(cell) for cell in cells]
    return done[-1], done[0].sent, max(map(float, stamps(kernel, "first", launch.ranks)))


def measure(
    contender: Contender, launch: Launch, result: Result, repeats: int, timeout: float
) -> None:
    """Run one contender in one fresh kernel and add the samples to `result`."""
    with Kernel(timeout, launch.device) as kernel:
        try:
            load = kernel.run(contender.load)
            result.load.append(load.seconds)
            if "True" in kernel.run("import sys; print('torch' in sys.modules)").output:
                result.torch_imported = True
            if contender.ready:
                kernel.run(contender.ready)
            floor = [kernel.run("pass").seconds for _ in range(repeats + 10)]
            result.floor += floor[10:]
            first, asked, reduced = start_ranks(kernel, contender, launch)
            result.start.append(reduced - asked)
            result.first.append(first.seconds)
            if not contender.ready:
                result.cold.append(load.seconds + reduced - asked)
            for repeat in range(repeats + 2):
                cell = kernel.run(launch.cell(contender.warm))
                if repeat >= 2:
                    result.warm.append(cell.seconds)
            kernel.run(launch.cell(contender.memory))
            texts = [text.split() for text in stamps(kernel, "memory", launch.ranks)]
            own = {int(pid): int(kilobytes) for pid, kilobytes in texts}
            result.memory.append(mean(own.values()) * 1024 / 1e6)
            result.helpers.append(sum(memory(pid) for pid in kernel.processes() if pid not in own))
            if contender.stop:
                kernel.run(contender.stop)
        except CellError as error:
            result.notes.append(str(error))
    if kernel.left_behind:
        result.notes.append(
            f"left {kernel.left_behind} processes behind, 2 s after the kernel's end"
        )


def measure_cold(contender: Contender, launch: Launch, result: Result, timeout: float) -> None:
    """Load and start at once, for a contender that could have warmed up."""
    with Kernel(timeout, launch.device) as kernel:
        try:
            load = kernel.run(contender.load)
            _, _, reduced = start_ranks(kernel, contender, launch)
            result.cold.append(reduced - load.sent)
        except CellError as error:
            result.notes.append(f"cold start: {error}")


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    def counts(text: str) -> list[int]:
        values = [int(part) for part in text.split(",")]
        if min(values) < 2:
            raise argparse.ArgumentTypeError("at least 2 ranks")
        return values

    def positive(text: str) -> int:
        if int(text) < 1:
            raise argparse.ArgumentTypeError("at least 1")
        return int(text)

    names = [contender.name for contender in CONTENDERS]
    parser = arguments(__doc__)
    parser.add_argument("--ranks", type=counts, default=[2, 8], help="default: 2,8")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument(
        "--repeats", type=positive, default=100, help="warm cells at 2 ranks; half beyond (100)"
    )
    parser.add_argument(
        "--kernels", type=positive, default=3, help="fresh kernels a contender (default: 3)"
    )
    listed = ", ".join(names)
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=listed)
    parser.add_argument("--timeout", type=positive, default=60, help="seconds a cell may take (60)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all samples here")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = read_arguments(argv)
    console = Console() if sys.stdout.isatty() else Console(width=132)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.device == "cuda" and not gpus():
        raise SystemExit("--device cuda: torch finds no CUDA GPU here")
    began, facts = time.monotonic(), machine() | {"ranks on": options.device}
    results: list[Result] = []
    chosen = [c for c in CONTENDERS if not options.only or c.name in options.only]
    with console.status("import accelnb") as status:
        is_installed = importlib.util.find_spec("accelnb") is not None
        imports = import_times("import accelnb", times=7) if is_installed else []
        for ranks in options.ranks:
            repeats = math.ceil(options.repeats / (1 if ranks == 2 else 2) / options.kernels)
            launch = Launch(ranks, options.device)
            rows = {c.name: Result(c.name, ranks) for c in chosen}
            results += rows.values()
            for turn in range(options.kernels):
                for contender in chosen:
                    row = rows[contender.name]
                    if why := contender.why_not(options.device):
                        row.notes = [why]
                        continue
                    where = f"{ranks} ranks, kernel {turn + 1} of {options.kernels}"
                    status.update(f"{contender.name}: {where}")
                    measure(contender, launch, row, repeats, options.timeout)
                    if contender.ready:
                        measure_cold(contender, launch, row, options.timeout)
    budgets = show(console, facts, results, imports)
    console.print(f"{time.monotonic() - began:.0f} s", style="dim")
    if options.json:
        samples = {"machine": facts, "import_accelnb": imports}
        samples["results"] = [asdict(result) for result in results]
        write_json(options.json, budgets, samples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
