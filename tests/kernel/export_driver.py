"""Run exported scripts one after the other under one torchrun, each in a process of its own.

`torchrun export_driver.py FOLDER SCRIPT...`: what rank 0 prints in train.py is in FOLDER/train.0.
"""

from __future__ import annotations

import os
import runpy
import socket
import sys
import traceback
from pathlib import Path

import torch
import torch._dynamo  # noqa: F401
import torch.distributed as dist

import accelnb.training.accelerator  # noqa: F401


def main() -> None:
    folder, *scripts = map(Path, sys.argv[1:])
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), size, is_master=False
    )
    failed = 0
    for script in scripts:
        if rank == 0:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                store.set(script.stem, str(free.getsockname()[1]))
        os.environ["MASTER_PORT"] = store.get(script.stem).decode()
        child = os.fork()
        if child == 0:
            os._exit(_run(script, folder / f"{script.stem}.{rank}"))
        failed |= os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(failed)


def _run(script: Path, output: Path) -> int:
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # a store for each script
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 1)
    sys.argv[:] = [str(script)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    main()
