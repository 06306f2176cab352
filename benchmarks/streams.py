"""What does output cost? Lines from ranks beside a plain cell's print and ipyparallel.

All in real Jupyter kernels and in one run; a cell's time is from sending its request to the idle
status. Medians of ``--repeats``.

lines
    2 ranks print 50,000 different lines each. All have to be in the run's log, whole and in order.
    A plain cell prints as many as one rank.
million
    One rank prints 1,000,000 lines: time, growth of the kernel's memory, size of what the
    notebook's document gets.

    python benchmarks/streams.py --repeats 5
"""

from __future__ import annotations

import argparse
import importlib.util
from statistics import median

import psutil
from kernel import CellError, Kernel, machine
from peers import ACCELNB_WAIT
from report import Budget, duration, show_budgets
from rich.console import Console
from rich.table import Table

LINES = 50_000
PRINT = "for i in range({count}): print(f'line {{i}} of rank {{rank}}, as a log has them')"
CHECK = f"""
import accelnb
run = accelnb.last_run()
for rank in (0, 1):
    expected = [f'line {{i}} of rank {{rank}}, as a log has them' for i in range({LINES})]
    assert run.logs(rank).splitlines() == expected
"""


def measure_accelnb(repeats: int, timeout: float) -> dict[str, list[float]]:
    with Kernel(timeout) as kernel:
        kernel.run("%load_ext accelnb\n" + ACCELNB_WAIT)
        kernel.run("%distributed --procs 2 rank;")
        plain = PRINT.format(count=LINES)
        found: dict[str, list[float]] = {"plain": [], "two": [], "million": []}
        for _ in range(repeats):
            found["plain"].append(kernel.run("rank = 0\n" + plain).seconds)
            found["two"].append(kernel.run("%%distributed\n" + plain).seconds)
            kernel.run(CHECK)
        kernel.run("del rank")
        pid = kernel.manager.provisioner.pid  # type: ignore[union-attr]
        before = psutil.Process(pid).memory_info().rss
        million = kernel.run("%%distributed --ranks 0\n" + PRINT.format(count=1_000_000))
        found["million"].append(million.seconds)
        found["growth"] = [psutil.Process(pid).memory_info().rss - before]
        found["document"] = [len(million.output)]
        return found


def measure_ipyparallel(repeats: int, timeout: float) -> list[float]:
    if importlib.util.find_spec("ipyparallel") is None:
        return []
    with Kernel(timeout) as kernel:
        kernel.run(
            "import ipyparallel as ipp\ncluster = ipp.Cluster(n=2)\n"
            "client = cluster.start_and_connect_sync(activate=True)\n"
            "client[:].scatter('rank', range(2), flatten=True, block=True)"
        )
        cell = "%%px\n" + PRINT.format(count=LINES)
        found = [kernel.run(cell).seconds for _ in range(max(1, repeats // 2))]
        kernel.run("cluster.stop_cluster_sync()")
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="of each flood (5)")
    parser.add_argument("--timeout", type=float, default=120, help="seconds a cell may take (120)")
    options = parser.parse_args()
    console = Console(width=132)
    console.print(", ".join(f"{name} {value}" for name, value in machine().items()), markup=False)
    own = measure_accelnb(options.repeats, options.timeout)
    try:
        px = measure_ipyparallel(options.repeats, options.timeout)
    except CellError as error:
        console.print(f"ipyparallel: {error}", style="yellow", markup=False)
        px = []
    table = Table(title="Lines", title_justify="left", title_style="bold")
    for heading in ("what", "seconds", "lines a second"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    rows = {
        "a plain cell, 50,000": (own["plain"], LINES),
        "accelnb, 2 ranks x 50,000": (own["two"], 2 * LINES),
        "ipyparallel, 2 engines x 50,000": (px, 2 * LINES),
        "accelnb, 1 rank x 1,000,000": (own["million"], 1_000_000),
    }
    for name, (samples, lines) in rows.items():
        if samples:
            table.add_row(name, duration(median(samples)), f"{lines / median(samples):,.0f}")
        else:
            table.add_row(name, "-", "-")
    console.print(table)
    rate = (2 * LINES / median(own["two"])) / (LINES / median(own["plain"]))
    growth, document = own["growth"][0] / (1 << 20), own["document"][0] / 1e3
    show_budgets(
        console,
        [
            Budget("2 x 50,000 lines, all in the log, none mixed", "checked each time", True),
            Budget("... ≥ 0.5 x the lines/s of a plain cell", f"{rate:.1f} x", rate >= 0.5),
            Budget(
                "1,000,000 lines: the document stays small, memory bounded",
                f"{document:.0f} kB of text; the kernel grew by {growth:.0f} MiB",
                document < 500 and growth < 100,
            ),
        ],
    )


if __name__ == "__main__":
    main()
