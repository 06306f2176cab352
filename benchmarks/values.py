"""What do values between notebook and ranks cost? accelnb beside a plain copy and ipyparallel.

All in real Jupyter kernels and in one run. What is compared takes turns, ``--repeats`` times;
times are taken inside the kernel, and the first turn is not counted.

back
    A 256 MiB float32 tensor of a rank into the notebook, until its last element was read:
    ``accelnb.pull`` and a cell's ``--out``, beside one ``clone()`` of such a tensor in the
    notebook, and beside ipyparallel. The same with an ``amin()``, which reads every page.
there
    The same tensor captured by a cell, on one rank and on all of 8, until the cell is over; and
    how much memory (PSS) the 8 ranks have more, once each has read all of it.
small
    A state dict of 1,000 tensors of 4 KiB, beside ``pickle`` there and back in one process.
stream
    What ``accelnb.stream`` of a scalar takes of the rank's time, 20,000 in a row.

    python benchmarks/values.py --repeats 15
"""

from __future__ import annotations

import json
from statistics import median
from typing import Any

from beside_ipyparallel import Figures, compare, ipyparallel_kernel
from kernel import Kernel, memory
from peers import ACCELNB_WAIT
from report import Budget, duration, new_table
from rich.table import Table

SIZE = 256 << 20
RANKS = 8

# The clock stops when the value was read, and before anything is freed.
TIMED = f"""
import gc, json, pickle, time, torch
def timed(action, read):
    gc.collect()
    start = time.perf_counter()
    value = action()
    found = read(value)
    seconds = time.perf_counter() - start
    assert found == 1
    globals().pop("back", None)
    return seconds
def last(value): return value[-1].item()
def whole(value): return value.amin().item()
local = torch.ones({SIZE} // 4)
def clone(): return local.clone()
"""
ON_RANK = f"""
import torch
big = torch.ones({SIZE} // 4)
state = {{str(i): torch.ones(1024) for i in range(1000)}}
"""
ACCELNB = """
state = {str(i): torch.ones(1024) for i in range(1000)}
def pull(): return accelnb.pull("big", ranks="0")[0]
def out():
    get_ipython().run_cell_magic("distributed", "--ranks 0 --out back", "big")
    return back[0]
def pull_state(): return accelnb.pull("state", ranks="0")[0]["999"]
def pickle_state(): return pickle.loads(pickle.dumps(state, 5))["999"]
# A new tensor each time: what the ranks have already is not sent again.
def capture(options, check="captured[-1] == 1"):
    global captured
    get_ipython().run_line_magic("distributed", "captured = None")  # frees the last one
    captured = local.clone()
    start = time.perf_counter()
    get_ipython().run_cell_magic("distributed", options, f"assert {check}")
    return time.perf_counter() - start
"""
IPYPARALLEL = """
def pull(): return client[0]["big"]
def pull_state(): return client[0]["state"]["999"]
"""
STREAM = """%%distributed --ranks 0 --out cost
import accelnb, time
start = time.perf_counter()
for step in range(20_000):
    accelnb.stream("loss", 0.5, step)
(time.perf_counter() - start) / 20_000"""


def read(kernel: Kernel, expression: str) -> Any:
    """Return the value of an expression in the kernel."""
    return json.loads(kernel.run(f"print(json.dumps({expression}))").output)


def in_turns(kernel: Kernel, expressions: dict[str, str], repeats: int) -> Figures:
    """Evaluate each expression once a turn, and leave out the first turn."""
    found: Figures = {name: [] for name in expressions}
    for _ in range(repeats + 1):
        for name, expression in expressions.items():
            found[name].append(read(kernel, expression))
    return {name: samples[1:] for name, samples in found.items()}


def measure_accelnb(repeats: int, timeout: float) -> Figures:
    back = {
        "clone": "timed(clone, last)",
        "pull": "timed(pull, last)",
        "out": "timed(out, last)",
        "clone whole": "timed(clone, whole)",
        "pull whole": "timed(pull, whole)",
        "state": "timed(pull_state, last)",
        "pickle": "timed(pickle_state, last)",
    }
    with Kernel(timeout) as kernel:
        kernel.run("%load_ext accelnb\nimport accelnb\n" + ACCELNB_WAIT)
        kernel.run(TIMED + ACCELNB)
        kernel.run(f"%distributed --procs {RANKS} --out pids __import__('os').getpid()")
        pids = read(kernel, "list(pids)")
        kernel.run("%%distributed --ranks 0" + ON_RANK)
        found = in_turns(kernel, back, repeats)
        found["stream"] = []
        for _ in range(repeats):
            kernel.run(STREAM)
            found["stream"].append(read(kernel, "cost[0]"))
        kernel.run("%distributed --ranks 0 del big, state")
        there = {"one": "capture('--ranks 0')", "eight": "capture('')"}
        found |= in_turns(kernel, there, repeats)
        kernel.run("%distributed captured = None")
        found["before"] = [sum(map(memory, pids))]
        kernel.run("capture('', 'captured.amin() == captured.amax() == 1')")
        found["after"] = [sum(map(memory, pids))]
        return found


def measure_ipyparallel(repeats: int, timeout: float) -> Figures:
    with ipyparallel_kernel(timeout) as kernel:
        kernel.run(TIMED + IPYPARALLEL)
        kernel.run("%%px --targets 0" + ON_RANK)
        back = {"pull": "timed(pull, last)", "state": "timed(pull_state, last)"}
        found = in_turns(kernel, back, repeats)
        return found


def table(own: Figures, px: Figures) -> Table:
    shown = new_table("Values", "what", "median", "least", "most")
    rows = {
        "256 MiB: one clone() in the notebook": own["clone"],
        "256 MiB back: accelnb.pull": own["pull"],
        "256 MiB back: --out": own["out"],
        "256 MiB back: ipyparallel": px.get("pull", []),
        "256 MiB: one clone(), and its amin()": own["clone whole"],
        "256 MiB back: accelnb.pull, and its amin()": own["pull whole"],
        "256 MiB there: captured by 1 rank": own["one"],
        f"256 MiB there: captured by {RANKS} ranks": own["eight"],
        "1,000 x 4 KiB: pickle in the notebook": own["pickle"],
        "1,000 x 4 KiB back: accelnb.pull": own["state"],
        "1,000 x 4 KiB back: ipyparallel": px.get("state", []),
    }
    for name, samples in rows.items():
        figures = [median(samples), min(samples), max(samples)] if samples else []
        shown.add_row(name, *(duration(sample) for sample in figures))
    return shown


def judged(own: Figures, px: Figures) -> list[Budget]:
    middle = {name: median(samples) for name, samples in own.items()}
    found = []

    def at_most(budget: str, most: float, name: str, reference: str) -> None:
        ratio = middle[name] / middle[reference]
        text = f"{duration(middle[name])}: {ratio:.2f} x ({duration(middle[reference])})"
        found.append(Budget(budget, text, ratio <= most))

    at_most("256 MiB back by accelnb.pull ≤ 1.5 x one clone()", 1.5, "pull", "clone")
    at_most("256 MiB back by a cell's --out ≤ 1.5 x one clone()", 1.5, "out", "clone")
    faster = "256 MiB back ≥ 10 x faster than ipyparallel"
    if px:
        ratio = median(px["pull"]) / middle["pull"]
        text = f"{ratio:.0f} x faster ({duration(median(px['pull']))})"
        found.append(Budget(faster, text, ratio >= 10))
    else:
        found.append(Budget(faster, "", None))
    at_most(f"256 MiB captured by {RANKS} ranks ≤ 1.5 x by 1", 1.5, "eight", "one")
    copies = (middle["after"] - middle["before"]) * 1e6 / SIZE
    text = f"{copies:.2f} copies; PSS {middle['before']:.0f} MB, then {middle['after']:.0f} MB"
    found.append(Budget("... one copy in total, read whole by all", text, 0.9 <= copies <= 1.1))
    cost = middle["stream"]
    found.append(Budget("a streamed scalar < 50 µs", f"{cost * 1e6:.1f} µs", cost < 50e-6))
    return found


if __name__ == "__main__":
    compare(
        __doc__,
        measure_accelnb,
        measure_ipyparallel,
        table,
        judged,
        repeats=15,
        of_what="each value",
    )
