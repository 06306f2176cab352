"""Where this rank is: what its main thread runs and which collective it waits in.

All of it is read from another thread, also while the main thread is inside C++ code.
"""

from __future__ import annotations

import ast
import contextlib
import pickle
import sys
import threading
import types
from typing import Any, Protocol

from torch._C import _distributed_c10d  # pyright: ignore

from accelnb.engine.process.procfs import resident
from accelnb.worker import process_group, store_waits, waits

_MOST_FRAMES = 40
_BRANCHING = (ast.If, ast.For, ast.While, ast.Try, ast.Match)
# Wrappers of torch's functions: what goes on inside them is told in words.
_WRAPPERS = (waits.__file__, store_waits.__file__, process_group.__file__)
# torch's flight recorders: of gloo, and of nccl where torch has that.
_RECORDERS = [
    getattr(_distributed_c10d, name)
    for name in ("_dump_fr_trace", "_dump_nccl_trace")
    if hasattr(_distributed_c10d, name)
]


class Notebook(Protocol):
    """What is known here of the notebook's cells."""

    def label(self, file: str) -> str | None:
        """Return e.g. ``Cell In[5]`` for the file name of a cell."""
        ...

    def code(self, file: str) -> str: ...


def report(
    notebook: Notebook, busy: bool, under_way: waits.Waits, device_memory: int | None
) -> dict[str, Any]:
    """Return, as JSON, what `accelnb.engine.stall_report.place_of` reads.

    Parameters
    ----------
    busy
        Whether the main thread runs a cell; otherwise it has no frames to speak of.
    under_way
        The main thread's waits outside of collectives.
    device_memory
        Bytes of the rank's tensors on its device, None if it cannot be told.
    """
    frames, position = _main_frames(notebook) if busy else ([], [])
    wait = under_way.now() if busy else None
    collective = collective_under_way() if busy and wait is None else None
    number = collective["number"] if collective else -1
    return {
        "frames": frames,
        "collective": collective,
        "wait": {"what": wait.what, "peers": wait.peers} if wait else None,
        # What differs between two reports if the rank did anything in between.
        "position": [*position, number, _last_collective(), under_way.count],
        "memory": resident(),
        "device_memory": device_memory,
    }


def collective_under_way() -> dict[str, Any] | None:
    """Return the operation that waits, by torch's flight recorders.

    Its ``number`` counts the collectives of its process group.
    """
    # Operations that nccl makes as one have one number; the last entry is of all together.
    latest = {_identity(entry): entry for entry in _recorded()[-100:]}
    waiting = [entry for entry in latest.values() if not _is_over(entry)]
    if not waiting:
        return None
    last = waiting[-1]
    return {
        "name": last["profiling_name"].rpartition(":")[2],
        "number": _number(last),
        "group": last["process_group"][0],
    }


def _identity(entry: dict[str, Any]) -> tuple[Any, ...]:
    if not _is_of_nccl(entry):
        return (entry["record_id"],)
    return entry["pg_id"], entry["is_p2p"], _number(entry)


def _number(entry: dict[str, Any]) -> int:
    return entry["p2p_seq_id"] if entry["is_p2p"] else entry["collective_seq_id"]


def _is_over(entry: dict[str, Any]) -> bool:
    # gloo's state never changes; nccl's is exact, and it also retires what only timed out.
    return entry["state"] == "completed" if _is_of_nccl(entry) else entry["retired"]


def _is_of_nccl(entry: dict[str, Any]) -> bool:
    return entry["profiling_name"].startswith("nccl:")


def _last_collective() -> int:
    entries = _recorded()
    return entries[-1]["time_created_ns"] if entries else -1


def _recorded() -> list[dict[str, Any]]:
    """Return what the flight recorders hold, oldest first."""
    entries = []
    for dump in _RECORDERS:
        with contextlib.suppress(RuntimeError):  # a kernel failed: CUDA answers nothing any more
            entries += pickle.loads(dump(includeStackTraces=False))["entries"]  # our own memory
    return sorted(entries, key=lambda entry: entry["time_created_ns"])


def _main_frames(notebook: Notebook) -> tuple[list[list[Any]], list[int]]:
    """Return the main thread's frames, innermost first, as `accelnb.engine.stall_report.Frame`."""
    main = threading.main_thread().ident
    assert main is not None
    frame: types.FrameType | None = sys._current_frames()[main]
    frames, position = [], []
    # The thread goes on meanwhile, and below code that torch compiled there was once no frame.
    while isinstance(frame, types.FrameType) and len(frames) < _MOST_FRAMES:
        code, line = frame.f_code, frame.f_lineno
        if code.co_filename in _WRAPPERS:
            frames, position, frame = [], [], frame.f_back
            continue
        cell = notebook.label(code.co_filename)
        branches = _branches(notebook.code(code.co_filename), line) if cell else []
        frames.append([cell or code.co_filename, line, code.co_name, cell is not None, branches])
        position += [id(code), frame.f_lasti]
        if cell is not None and code.co_name == "<module>":
            break  # what is below is IPython's and ours
        frame = frame.f_back
    return frames, position


def _branches(code: str, line: int) -> list[tuple[int, str]]:
    """Return the compound statements around `line`, outermost first, and the part it is in."""
    try:
        within: ast.AST | None = ast.parse(code)
    except SyntaxError:  # a cell with magics in it
        return []
    found = []
    while within is not None:
        part, child = _part_at(within, line)
        if isinstance(within, _BRANCHING):
            found.append((within.lineno, part))
        within = child
    return found


def _part_at(node: ast.AST, line: int) -> tuple[str, ast.AST | None]:
    for part, children in ast.iter_fields(node):
        for child in children if isinstance(children, list) else [children]:
            if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                lines = [n for n in ast.walk(child) if isinstance(n, ast.stmt | ast.expr)]
                if lines and lines[0].lineno <= line <= (lines[0].end_lineno or line):
                    return part, child
    return "", None
