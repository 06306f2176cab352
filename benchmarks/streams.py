"""What does output cost? Lines from ranks beside a plain cell's print and ipyparallel.

All in real Jupyter kernels and in one run; a cell's time is from sending its request to the idle
status. Medians of ``--repeats``.

lines
    2 ranks print 50,000 different lines each. All have to be in the run's log, whole and in order.
    A plain cell of the same kernel prints as many as one rank; the two take turns.
million
    One rank prints 1,000,000 lines: time; what the kernel and the rank take of memory (RSS) at
    most, above what they had; size of what the cell leaves in the notebook's document.

    python benchmarks/streams.py --repeats 5
"""

from __future__ import annotations

import itertools
from pathlib import Path
from statistics import median

from beside_ipyparallel import Figures, compare, ipyparallel_kernel
from kernel import Kernel, memory
from peers import ACCELNB_WAIT
from report import Budget, duration, new_table
from rich.table import Table

LINES = 50_000
MILLION = 1_000_000
PRINT = "for i in range({count}): print(f'line {{i}} of rank {{rank}}, as a log has them')"


def wrong_lines(kernel: Kernel, rank: int, count: int) -> int:
    """How many lines of the last run's log are not what the rank printed there."""
    said = kernel.run(f"print(accelnb.last_run().log.path({rank}, 'stdout'))").output
    expected = (f"line {i} of rank {rank}, as a log has them" for i in range(count))
    lines = Path(said.strip()).read_text().splitlines()
    return sum(line != right for line, right in itertools.zip_longest(lines, expected))


def measure_accelnb(repeats: int, timeout: float) -> Figures:
    found: Figures = {name: [] for name in ("plain", "plain document")}
    for name in ("two", "million"):
        found |= {name: [], f"{name} document": [], f"{name} wrong": []}
    with Kernel(timeout) as kernel:
        kernel.run("%load_ext accelnb\nimport accelnb\n" + ACCELNB_WAIT)
        kernel.run("%distributed --procs 2 rank;")
        plain = PRINT.format(count=LINES)
        for _ in range(repeats):
            cell = kernel.run("rank = 0\n" + plain)
            found["plain"].append(cell.seconds)
            found["plain document"].append(cell.document)
            cell = kernel.run("%%distributed\n" + plain)
            found["two"].append(cell.seconds)
            found["two document"].append(cell.document)
            found["two wrong"].append(sum(wrong_lines(kernel, rank, LINES) for rank in (0, 1)))
        kernel.run("%distributed --ranks 0 --out pids __import__('os').getpid()")
        said = kernel.run("import os; print(os.getpid(), *pids)").output
        pids = [int(pid) for pid in said.split()]
        found |= {"kernel grew": [], "rank grew": []}
        for _ in range(repeats):
            before = [memory(pid, "status", "VmRSS") for pid in pids]
            for pid in pids:
                Path(f"/proc/{pid}/clear_refs").write_text("5")  # forget the most it had
            cell = kernel.run("%%distributed --ranks 0\n" + PRINT.format(count=MILLION))
            most = [memory(pid, "status", "VmHWM") for pid in pids]
            found["kernel grew"].append(most[0] - before[0])
            found["rank grew"].append(most[1] - before[1])
            found["million"].append(cell.seconds)
            found["million document"].append(cell.document)
            found["million wrong"].append(wrong_lines(kernel, 0, MILLION))
    return found


def measure_ipyparallel(repeats: int, timeout: float) -> Figures:
    with ipyparallel_kernel(timeout) as kernel:
        kernel.run("client[:].scatter('rank', range(2), flatten=True, block=True)")
        cells = [kernel.run("%%px\n" + PRINT.format(count=LINES)) for _ in range(repeats)]
        return {
            "two": [cell.seconds for cell in cells],
            "two document": [cell.document for cell in cells],
        }


def table(own: Figures, px: Figures) -> Table:
    headings = ("what", "median", "least", "most", "lines a second", "in the document")
    shown = new_table("Lines", *headings)
    rows = {
        "a plain cell, 50,000": (own, "plain", LINES),
        "accelnb, 2 ranks x 50,000": (own, "two", 2 * LINES),
        "ipyparallel, 2 engines x 50,000": (px, "two", 2 * LINES),
        "accelnb, 1 rank x 1,000,000": (own, "million", MILLION),
    }
    for title, (found, name, lines) in rows.items():
        if not found:
            shown.add_row(title, *"-----")
            continue
        seconds = found[name]
        shown.add_row(
            title,
            *(duration(value) for value in (median(seconds), min(seconds), max(seconds))),
            f"{lines / median(seconds):,.0f}",
            f"{median(found[name + ' document']) / 1e3:,.0f} kB",
        )
    return shown


def judged(own: Figures, _: Figures) -> list[Budget]:
    def whole(name: str) -> Budget:
        wrong, runs = sum(own[f"{name} wrong"]), len(own[name])
        what = {"two": "2 x 50,000 lines", "million": "1,000,000 lines"}[name]
        text = f"{wrong:.0f} wrong ones in {runs} runs"
        return Budget(f"{what}: all in the log, none mixed", text, not wrong)

    rate = (2 * LINES / median(own["two"])) / (LINES / median(own["plain"]))
    kernel, rank = max(own["kernel grew"]), max(own["rank grew"])
    document = max(own["million document"]) / 1e3
    return [
        whole("two"),
        Budget("... ≥ 0.5 x the lines/s of a plain cell", f"{rate:.2f} x", rate >= 0.5),
        whole("million"),
        Budget(
            "... memory bounded (100 MB)",
            f"at most {kernel:.0f} MB more in the kernel, {rank:.0f} MB in the rank",
            max(kernel, rank) <= 100,
        ),
        Budget("... the document stays small (500 kB)", f"{document:.0f} kB", document <= 500),
    ]


if __name__ == "__main__":
    compare(
        __doc__,
        measure_accelnb,
        measure_ipyparallel,
        table,
        judged,
        repeats=5,
        of_what="each flood",
    )
