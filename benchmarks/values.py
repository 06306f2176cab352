"""What do values between notebook and ranks cost? accelnb beside a plain copy and ipyparallel.

All in real Jupyter kernels and in one run; times are taken inside the kernel, medians of
``--repeats``.

back
    A 256 MiB float32 tensor of a rank into the notebook, until its last element can be read:
    ``accelnb.pull`` and ``--out``, beside one ``clone()`` of such a tensor in the notebook, and
    beside ipyparallel's pull.
there
    The same tensor captured by a cell, on one rank and on all of 8; and how much memory (PSS) the
    8 ranks have more with it.
small
    A state dict of 1,000 tensors of 4 KiB.
stream
    What ``accelnb.stream`` of a scalar takes of the rank's time.

    python benchmarks/values.py --repeats 7
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from statistics import median
from typing import Any

from kernel import CellError, Kernel, machine, pss
from peers import ACCELNB_WAIT
from report import Budget, duration, show_budgets
from rich.console import Console
from rich.table import Table

SIZE = 256 << 20
RANKS = 8

# The clock stops when the last element was read, and before anything is freed.
TIMED = """
import gc, json, time
def timed(action, repeats):
    taken = []
    for _ in range(repeats):
        gc.collect()
        start = time.perf_counter()
        value = action()
        value[-1].item()
        taken.append(time.perf_counter() - start)
        del value
        globals().pop("back", None)
    return taken
"""
LOCAL = f"import torch\nlocal = torch.ones({SIZE} // 4)"
CLONE = "def clone(): return local.clone()"
PULL = "def pull(): return accelnb.pull('big', ranks='0')[0]"
OUT = """
def out():
    get_ipython().run_cell_magic("distributed", "--ranks 0 --out back", "big")
    return back[0]
"""
SMALL = "def small(): return accelnb.pull('state', ranks='0')[0]['999']"
# A new tensor each time: what the ranks have already is not sent again.
CAPTURE = """
def capture(ranks):
    global captured
    captured = local.clone()
    start = time.perf_counter()
    get_ipython().run_cell_magic("distributed", f"{ranks} --logs rank0", "captured[-1].item();")
    return time.perf_counter() - start
"""
STREAM = """%%distributed --ranks 0 --out cost
import accelnb, time
taken = []
for step in range(20_000):
    start = time.perf_counter()
    accelnb.stream("loss", 0.5, step)
    taken.append(time.perf_counter() - start)
sorted(taken)[len(taken) // 2]"""


def read(kernel: Kernel, expression: str) -> Any:
    """Return the value of an expression in the kernel."""
    return json.loads(kernel.run(f"print(json.dumps({expression}))").output)


def measure_accelnb(repeats: int, timeout: float) -> dict[str, list[float]]:
    with Kernel(timeout) as kernel:
        kernel.run("%load_ext accelnb\nimport accelnb\n" + ACCELNB_WAIT)
        for code in (TIMED, LOCAL, CLONE, PULL, OUT, SMALL, CAPTURE):
            kernel.run(code)
        kernel.run(
            f"%%distributed --procs {RANKS}\nimport torch\n"
            f"if rank == 0:\n    big = torch.ones({SIZE} // 4)\n"
            "    state = {str(i): torch.ones(1024) for i in range(1000)}"
        )
        found = {
            name: read(kernel, f"timed({name}, {repeats + 1})")[1:]
            for name in ("clone", "pull", "out", "small")
        }
        found["stream"] = [float(kernel.run(STREAM + "\n").output or read(kernel, "cost[0]"))]
        kernel.run("%distributed --ranks 0 globals().pop('big');")
        found["one"] = [read(kernel, "capture('--ranks 0')") for _ in range(repeats)]
        kernel.run("%distributed globals().pop('captured', None);")
        ranks = [p.pid for p in kernel.processes().values() if is_rank(p)]
        before = sum(pss(pid) for pid in ranks)
        found["eight"] = [read(kernel, "capture('')") for _ in range(repeats)]
        found["memory"] = [sum(pss(pid) for pid in ranks) - before]
        return found


def is_rank(process: Any) -> bool:
    return not process.children()


def measure_ipyparallel(repeats: int, timeout: float) -> dict[str, list[float]]:
    if importlib.util.find_spec("ipyparallel") is None:
        return {}
    with Kernel(timeout) as kernel:
        kernel.run(
            "import ipyparallel as ipp\ncluster = ipp.Cluster(n=2)\n"
            "client = cluster.start_and_connect_sync(activate=True)"
        )
        kernel.run(TIMED + LOCAL)
        kernel.run(f"%%px --targets 0\nimport torch\nbig = torch.ones({SIZE} // 4)")
        kernel.run("def pull(): return client[0]['big']")
        found = {"pull": read(kernel, f"timed(pull, {max(1, repeats // 2)})")}
        kernel.run("cluster.stop_cluster_sync()")
        return found


def judged(own: dict[str, list[float]], px: dict[str, list[float]]) -> list[Budget]:
    middle = {name: median(samples) for name, samples in own.items()}
    found = []
    for name, what in (("pull", "accelnb.pull"), ("out", "a cell's --out")):
        ratio = middle[name] / middle["clone"]
        text = f"{duration(middle[name])}: {ratio:.2f} x ({duration(middle['clone'])})"
        found.append(Budget(f"256 MiB back by {what} ≤ 1.5 x one clone()", text, ratio <= 1.5))
    if px:
        ratio = median(px["pull"]) / middle["pull"]
        text = f"{ratio:.0f} x faster ({duration(median(px['pull']))})"
        found.append(Budget("256 MiB back ≥ 10 x faster than ipyparallel", text, ratio >= 10))
    else:
        found.append(Budget("256 MiB back ≥ 10 x faster than ipyparallel", "", None))
    ratio = middle["eight"] / middle["one"]
    text = f"{duration(middle['eight'])}: {ratio:.2f} x ({duration(middle['one'])})"
    found.append(Budget("256 MiB captured by 8 ranks ≤ 1.5 x by 1", text, ratio <= 1.5))
    copies = middle["memory"] * 1e6 / SIZE
    found.append(
        Budget("... in one copy", f"{copies:.2f} copies in the 8 ranks together", copies <= 1.1)
    )
    cost = middle["stream"]
    found.append(Budget("a streamed scalar < 50 µs", f"{cost * 1e6:.1f} µs", cost < 50e-6))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7, help="of each value (7)")
    parser.add_argument("--timeout", type=float, default=120, help="seconds a cell may take (120)")
    options = parser.parse_args()
    console = Console(width=132)
    console.print(", ".join(f"{name} {value}" for name, value in machine().items()), markup=False)
    own = measure_accelnb(options.repeats, options.timeout)
    try:
        px = measure_ipyparallel(options.repeats, options.timeout)
    except CellError as error:
        console.print(f"ipyparallel: {error}", style="yellow", markup=False)
        px = {}
    table = Table(title="Values", title_justify="left", title_style="bold")
    for heading in ("what", "median", "least", "most"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    rows = {
        "one clone() in the notebook": own["clone"],
        "256 MiB back: accelnb.pull": own["pull"],
        "256 MiB back: --out": own["out"],
        "256 MiB back: ipyparallel": px.get("pull", []),
        "256 MiB to 1 rank": own["one"],
        "256 MiB to 8 ranks": own["eight"],
        "1,000 x 4 KiB back": own["small"],
    }
    for name, samples in rows.items():
        shown = [median(samples), min(samples), max(samples)] if samples else []
        table.add_row(name, *(duration(sample) for sample in shown))
    console.print(table)
    show_budgets(console, judged(own, px))


if __name__ == "__main__":
    main()
