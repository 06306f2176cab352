"""Run cells and scripts, each in a process forked from this one, where torch is imported.

Reads lines of JSON, [folder, cells] or [folder, script]; answers each with what was printed, or
with null if it failed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import signal
import sys
import traceback
from typing import Any

import torch._dynamo
import torch.distributed  # noqa: F401


def main() -> None:
    for line in sys.stdin:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            os._exit(_run(writer, *json.loads(line)))
        os.close(writer)
        with os.fdopen(reader) as pipe:
            printed = pipe.read()
        failed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps(None if failed else printed), flush=True)


def _run(writer: int, folder: str, given: list[str] | str) -> int:
    signal.alarm(60)
    os.chdir(folder)
    sys.path.insert(0, folder)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            _run_cells(given) if isinstance(given, list) else runpy.run_path(
                given, None, "__main__"
            )
    except BaseException:
        traceback.print_exc()
        return 1
    with os.fdopen(writer, "w") as pipe:
        pipe.write(printed.getvalue())
    return 0


def _run_cells(cells: list[str]) -> None:
    """Run cells as one rank sees them; what ordinary cells print is not the job's."""
    names: dict[str, Any] = {"rank": 0, "world_size": 1, "__name__": "__main__"}
    for cell in cells:
        magic, _, body = cell.partition("\n")
        if magic.startswith("%%distributed"):
            exec(compile(body, "cell", "exec", dont_inherit=True), names)
        else:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(cell, "cell", "exec", dont_inherit=True), names)


if __name__ == "__main__":
    main()
