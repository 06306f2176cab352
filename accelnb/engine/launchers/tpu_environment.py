"""What the processes of ranks on a TPU have to agree on before they start."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from accelnb.devices import DEVICES
from accelnb.errors import AccelnbError
from accelnb.options.config import LaunchConfig

_TIMEOUT = 90.0  # s; most of it for importing torch
_MARK = "accelnb-launch-environment "
# In a process of its own, which is to load no device: it would keep it from the ranks.
_PROGRAM = f"""
import json, os, sys
import torch_tpu
from torch.tpu import distributed
before = dict(os.environ)
distributed.set_tpu_launch_env(nproc_per_node=int(sys.argv[1]))
changed = {{name: value for name, value in os.environ.items() if before.get(name) != value}}
print({_MARK!r} + json.dumps(changed))
"""


def host_of(config: LaunchConfig) -> str:
    """Return the module of the process that starts the ranks itself, empty for the fork server.

    Examples
    --------
    >>> from accelnb.options.config import LaunchConfig
    >>> from accelnb.engine.launchers.tpu_environment import host_of
    >>> host_of(LaunchConfig(procs=8, device="xla", start="xla"))
    'accelnb.worker.xla_host'
    >>> host_of(LaunchConfig(procs=8, device="cpu", start="fork"))
    ''
    """
    several = config.procs is not None and config.procs > 1
    return "accelnb.worker.xla_host" if config.start == "xla" and several else ""


def launch_environment(config: LaunchConfig) -> dict[str, str]:
    """Return the variables that all ranks of a group need before they import torch.

    Raises
    ------
    AccelnbError
        torch_tpu cannot make them; with its own last line.
    """
    if not DEVICES[config.device].prepared or config.procs is None:
        return {}
    return {"TORCH_DEVICE_BACKEND_AUTOLOAD": "1"} | _of_torch_tpu(config.procs)


def _of_torch_tpu(procs: int) -> dict[str, str]:
    """Ask torch_tpu, in a short process, for addresses and topology of this many ranks."""
    command = [sys.executable, "-P", "-c", _PROGRAM, str(procs)]
    environment = os.environ | {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    refused = "the TPU's launch environment could not be made: "
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise AccelnbError(f"{refused}torch_tpu did not answer within {_TIMEOUT:g} s") from None
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return json.loads(line.removeprefix(_MARK))
    said = done.stderr.strip().splitlines()
    reason = said[-1] if said else f"torch_tpu ended with {done.returncode}"
    todo = f"; {DEVICES['tpu'].install}" if DEVICES["tpu"].missing() else ""
    raise AccelnbError(f"{refused}{reason}{todo}")
