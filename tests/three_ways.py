"""Runs a program with genuine Accelerate, with accelnb in its place, and that in a cell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import Notebook, assert_ended, children

PROGRAMS = Path(__file__).parent / "clients" / "programs"
SHIM = "import accelnb.compat.accelerate\n"
LIMIT = 240  # s for one way
LOG = "what the program printed"
_TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]

# Ranks compute with as many threads in each way: sums of floats depend on it.
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([str(PROGRAMS), os.environ.get("PYTHONPATH", "")]),
    "ACCELERATE_USE_CPU": "true",
    "GLOO_SOCKET_IFNAME": "lo",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
}

Cases = dict[str, Any]  # what each rank reported of each case; under LOG what was printed


def under_torchrun(program: str, folder: Path, first_line: str = "") -> Cases:
    """Run a program of `PROGRAMS` on two processes, after `first_line`."""
    script = folder / f"{program}.py"
    script.write_text(first_line + (PROGRAMS / script.name).read_text())
    done = subprocess.run(
        ["timeout", "--kill-after=10", str(LIMIT), *_TORCHRUN, script.name],
        cwd=folder,
        env=os.environ | ENVIRONMENT | {"CLIENT_FOLDER": str(folder)},
        capture_output=True,
        text=True,
    )
    return _reported(folder, done.stdout + done.stderr)


def on_accelnb(program: str, folder: Path) -> Cases:
    """Run it with accelnb in the place of Accelerate."""
    return under_torchrun(program, folder, SHIM)


def in_a_cell(program: str, folder: Path) -> Cases:
    """Run a program of `PROGRAMS` in a cell of a fresh kernel, on the shim."""
    settings = ENVIRONMENT | {"CLIENT_FOLDER": str(folder)}
    notebook = Notebook(folder)
    below: set[int] = set()
    try:
        notebook.run(
            f"import os, sys\nos.environ.update({settings!r})\n"
            f"sys.path.insert(0, {str(PROGRAMS)!r})"
        )
        notebook.load()
        magic = f"%%distributed --procs 2 --timeout {LIMIT}\n"
        source = (PROGRAMS / f"{program}.py").read_text()
        said = notebook.run(magic + SHIM + source, timeout=LIMIT + 30)
        below = {process.pid for process in children(notebook)}
    finally:
        notebook.close()
    assert_ended(below)
    return _reported(folder, said.stdout + said.stderr)


def _reported(folder: Path, log: str) -> Cases:
    cases: Cases = {LOG: log[-5000:]}
    for report in sorted(folder.glob("*.[01].json")):
        cases.setdefault(report.name.split(".")[0], []).append(json.loads(report.read_text()))
    return cases


WAYS = {"accelerate": under_torchrun, "accelnb": on_accelnb, "cell": in_a_cell}


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Yield a line for each value of two reports that is not equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            yield from differences(one.get(name), other.get(name), f"{path}.{name}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            yield from differences(mine, theirs, f"{path}[{i}]")
    elif one != other:
        yield f"{path}: {str(one)[-2000:]} / {str(other)[-2000:]}"
