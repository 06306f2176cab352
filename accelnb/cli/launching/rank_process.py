"""A launched process: it runs the script as `python` would, and says in a file how it failed.

``python -m accelnb.cli.launching.rank_process PARENT script FOLDER train.py -b 8``. The launcher
reads the file and shows an error that several ranks had once.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import runpy
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelnb.errors import AccelnbError
from accelnb.options.environment import number

# torch's launcher names the file in which a process tells its error.
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
_RESTARTS = ("RESTART_COUNT", "MAX_RESTARTS")
_NOTICE = 2.0  # s for Python to notice Ctrl-C; in a collective that waits it does not


def main() -> None:
    """Run what the command line says."""
    from accelnb.engine.process.children import die_with_parent

    parent, kind, folder, name, *arguments = sys.argv[1:]
    die_with_parent(int(parent))
    _print_whole_lines()
    run(kind, name, arguments, folder)


def run(
    kind: str, name: str, arguments: Sequence[str], works_in: str = "", whose_lines: str = ""
) -> None:
    """Run a script or module in this process, as its main program.

    Parameters
    ----------
    kind
        ``script`` or ``module``.
    works_in
        Where a script works and imports from; by default here, and from its own folder.
    whose_lines
        What is said below a traceback of a process that no launcher of torch watches.
    """
    sys.argv[:] = [name, *arguments]
    _end_when_interrupted()
    try:
        if kind == "module":
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            sys.path[0] = works_in or str(Path(name).resolve().parent)
            os.chdir(works_in or ".")
            _run_script(name)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        _report(error, whose_lines)
        sys.exit(1)


def _run_script(name: str) -> None:
    # The module stays when the script's last line has run: its threads and workers look it up.
    main_module = types.ModuleType("__main__")
    main_module.__file__ = name
    main_module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main_module
    code = compile(Path(name).read_bytes(), name, "exec", dont_inherit=True)
    exec(code, main_module.__dict__)


def _print_whole_lines() -> None:
    """Write each line when it is complete, so that lines of several ranks do not mix.

    Python would write them much later, or piece by piece if PYTHONUNBUFFERED is set.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True, write_through=False)


# ---- Ctrl-C ----


def _end_when_interrupted() -> None:
    """End this process at SIGINT also where Python cannot run its handler: in a collective."""
    if threading.current_thread() is not threading.main_thread():
        return
    noticed = threading.Event()

    def raise_interrupt(*_: Any) -> None:
        noticed.set()
        raise KeyboardInterrupt

    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGINT, raise_interrupt)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))

    def watch() -> None:
        while os.read(woken, 1)[0] != signal.SIGINT:
            pass
        if not noticed.wait(_NOTICE):
            os._exit(128 + signal.SIGINT)

    threading.Thread(target=watch, name="accelnb-interrupt", daemon=True).start()


# ---- errors ----


def _report(error: Exception, whose_lines: str) -> None:
    own = _of_script(error.__traceback__)
    lines = traceback.format_exception(type(error), error, own)
    text = "" if isinstance(error, AccelnbError) else "".join(lines)
    place = _place(own)
    path = os.environ.get(ERROR_FILE)
    count, most = (number(f"TORCHELASTIC_{name}", default=0) for name in _RESTARTS)
    if path is None:
        _print_once(text or f"{error}\n", path)
        if text and whose_lines:
            print(whose_lines, file=sys.stderr)
        return
    if count < most:  # all start again, and the launcher says so
        from accelnb.cli.launching.failure_report import lost_another_rank

        is_first = not lost_another_rank(str(error))
        _print_once((text or f"{error}\n") if is_first else "it lost another rank\n", path)
        return
    said = {
        "message": f"{type(error).__name__}: {error}",
        "extraInfo": {"py_callstack": text, "timestamp": str(int(time.time()))},
        "ename": type(error).__name__,
        "evalue": str(error),
        "place": place,
        "time": time.time(),
    }
    try:
        Path(path).write_text(json.dumps({"message": said}))
    except OSError:  # a full disk, say: then here, though others may say the same
        print(text, file=sys.stderr, flush=True)


def _print_once(text: str, error_file: str | None) -> None:
    """Print a traceback, unless another rank of this attempt has printed the same."""
    rank = os.environ.get("RANK", "0")
    if error_file is not None:
        attempt = Path(error_file).parent.parent
        same = attempt / f"shown-{hashlib.sha1(text.encode()).hexdigest()[:16]}"
        try:
            same.touch(exist_ok=False)
        except FileExistsError:
            return
        except OSError:
            pass  # shown twice is better than not at all
    print(f"--- rank {rank} ---\n{text}", end="", file=sys.stderr, flush=True)


def _of_script(frames: types.TracebackType | None) -> types.TracebackType | None:
    """Return the traceback from the script's first frame on."""
    while frames is not None and frames.tb_next is not None:
        file = frames.tb_frame.f_code.co_filename
        if file != __file__ and "runpy" not in file:
            break
        frames = frames.tb_next
    return frames


def _place(frames: types.TracebackType | None) -> str:
    """Return e.g. ``train.py, line 12``: where the user's own code was."""
    place = ""
    with contextlib.suppress(IndexError):
        stack = traceback.extract_tb(frames)
        own = [f for f in stack if "site-packages" not in f.filename and f.lineno] or stack
        in_script = [f for f in own if f.filename == stack[0].filename]
        frame = (in_script or own)[-1]
        place = f"{Path(frame.filename).name}, line {frame.lineno}"
    return place


if __name__ == "__main__":
    main()
