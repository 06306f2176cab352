"""Functions and scripts of tests on real ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle

import accelnb


def on_ranks(function: Callable[..., Any], *args: Any, procs: int = 2, **options: Any) -> list[Any]:
    """Call a function of a test module on fresh ranks; return each rank's result.

    Parameters
    ----------
    **options
        Of `accelnb.launch`: ``precision="bf16"``, say. Ranks that hang end after 60 s.
    """
    # The ranks cannot import test modules: what these define travels by value.
    cloudpickle.register_pickle_by_value(sys.modules[function.__module__])
    return list(accelnb.launch(function, *args, procs=procs, **{"timeout": 60, **options}))


def under_torchrun(program: str, folder: Path, procs: int = 2, **env: str) -> list[Any]:
    """Run a script as torchrun does; return what each rank left in its global `result` (JSON)."""
    script = folder / "program.py"
    report = (
        "\nimport json, os, pathlib\n"
        "pathlib.Path(f'result-{os.environ[\"RANK\"]}.json').write_text(json.dumps(result))\n"
    )
    script.write_text(program + report)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, f"--nproc_per_node={procs}", script.name],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"} | env,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"result-{rank}.json").read_text()) for rank in range(procs)]
