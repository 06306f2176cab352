"""Where this rank is: what its main thread runs and which collective it waits in.

All of it is read from another thread, also while the main thread is inside C++ code.
"""

from __future__ import annotations

import ast
import os
import pickle
import sys
import threading
import types
from pathlib import Path
from typing import Any, Protocol

import torch
from torch._C._distributed_c10d import _dump_fr_trace  # pyright: ignore

_MOST_FRAMES = 40
_BRANCHING = (ast.If, ast.For, ast.While, ast.Try, ast.Match)
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Notebook(Protocol):
    """What is known here of the notebook's cells."""

    def label(self, file: str) -> str | None:
        """Return e.g. ``Cell In[5]`` for the file name of a cell."""
        ...

    def code(self, file: str) -> str: ...


def report(notebook: Notebook, busy: bool) -> dict[str, Any]:
    """Return, as JSON, what `accelnb.engine.doctor.place_of` reads.

    Parameters
    ----------
    busy
        Whether the main thread runs a cell; otherwise it has no frames to speak of.
    """
    frames, position = _main_frames(notebook) if busy else ([], [])
    collective = collective_under_way() if busy else None
    return {
        "frames": frames,
        "collective": collective,
        # What differs between two reports if the rank did anything in between.
        "position": [*position, collective["number"] if collective else -1, _last_collective()],
        "memory": _resident(),
        "device_memory": torch.cuda.memory_allocated() if torch.cuda.is_initialized() else None,
    }


def collective_under_way() -> dict[str, Any] | None:
    """Return the operation that waits, by torch's flight recorder, which records gloo too.

    Its ``number`` counts the collectives of its process group.
    """
    waiting = [entry for entry in _recorded()["entries"][-100:] if not entry["retired"]]
    if not waiting:
        return None
    last = waiting[-1]
    return {
        "name": last["profiling_name"].rpartition(":")[2],
        "number": last["p2p_seq_id"] if last["is_p2p"] else last["collective_seq_id"],
        "group": last["process_group"][0],
    }


def _last_collective() -> int:
    entries = _recorded()["entries"]
    return entries[-1]["record_id"] if entries else -1


def _recorded() -> dict[str, Any]:
    return pickle.loads(_dump_fr_trace(includeStackTraces=False))  # our own memory


def _main_frames(notebook: Notebook) -> tuple[list[list[Any]], list[int]]:
    """Return the main thread's frames, innermost first, as `accelnb.engine.doctor.Frame`."""
    main = threading.main_thread().ident
    assert main is not None
    frame: types.FrameType | None = sys._current_frames()[main]
    frames, position = [], []
    while frame is not None and len(frames) < _MOST_FRAMES:
        code, line = frame.f_code, frame.f_lineno
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


def _resident() -> int | None:
    """Return this process's resident memory in bytes (proc(5)), None where it cannot be told."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return None
