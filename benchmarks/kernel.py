"""A real Jupyter kernel, driven and timed as a front end sees it.

`Kernel` starts ``ipykernel`` through ``jupyter_client``, in its own folder for IPython and Jupyter
files, and runs cells one after the other. The time of a cell is the time from sending the
``execute_request`` to receiving the ``idle`` status that answers it.

Every process that the kernel starts carries a mark in its environment. `Kernel.close` ends the
kernel, waits, counts the processes that are still there and kills those, one by one.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from types import TracebackType
from typing import Any

import psutil
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

MARK = "LAUNCH_BENCHMARK_RUN"
FOLDER = "LAUNCH_BENCHMARK_DIR"
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class CellError(RuntimeError):
    """A cell raised, printed an error, or did not end in time."""


@dataclass(frozen=True)
class Cell:
    """What came of one cell.

    Attributes
    ----------
    sent
        Wall-clock time (``time.time``) at which the request was sent.
    seconds
        From the request to the idle status.
    output
        What the cell wrote to stdout and stderr.
    document
        Bytes that the cell leaves in the notebook's document: output and displays, as JSON.
    """

    sent: float
    seconds: float
    output: str
    document: int


class Kernel:
    """A fresh kernel for one contender; use it in a ``with`` statement.

    Parameters
    ----------
    timeout
        Longest time, in seconds, that the kernel's start or any one cell may take.
    device
        Where ranks compute. For those on the CPU the kernel sees no GPU; for others it sees those
        that this process does.
    """

    def __init__(self, timeout: float, device: str = "cpu") -> None:
        self.timeout = timeout
        self.device = device
        self.mark = uuid.uuid4().hex
        self.folder = Path(tempfile.mkdtemp(prefix="launch-benchmark-"))
        self.manager = KernelManager()
        self.client: BlockingKernelClient | None = None
        self.left_behind = 0

    def __enter__(self) -> Kernel:
        env = os.environ | {
            MARK: self.mark,
            FOLDER: str(self.folder),
            "IPYTHONDIR": str(self.folder / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(self.folder / "runtime"),
            # A contender that starts plain "python" must get this environment's.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        if self.device == "cpu":
            env["CUDA_VISIBLE_DEVICES"] = ""
        try:
            with open(self.folder / "kernel.log", "wb") as log:
                self.manager.start_kernel(env=env, cwd=self.folder, stdout=log, stderr=log)
            self.client = self.manager.client()
            self.client.start_channels()
            self.client.wait_for_ready(timeout=self.timeout)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(self, code: str) -> Cell:
        """Run one cell to its end; raise `CellError` where it fails."""
        assert self.client is not None
        deadline = time.monotonic() + self.timeout
        texts: list[str] = []
        displays: dict[str, dict[str, str]] = {}
        sent, start = time.time(), time.perf_counter()
        request = self.client.execute(code)
        try:
            while True:
                left = max(0.0, deadline - time.monotonic())
                message = self.client.get_iopub_msg(timeout=left)
                if message["parent_header"].get("msg_id") != request:
                    continue
                kind, content = message["msg_type"], message["content"]
                if kind == "status" and content["execution_state"] == "idle":
                    break
                if kind == "stream":
                    texts.append(content["text"])
                elif "data" in content:  # of a display that is updated, the last state stays
                    name = content.get("transient", {}).get("display_id", str(len(displays)))
                    displays[name] = content["data"]
            seconds = time.perf_counter() - start
            reply = self.client.get_shell_msg(timeout=max(1.0, deadline - time.monotonic()))
        except Empty:
            state = "no end" if self.manager.is_alive() else "the kernel died; no answer"
            what = first_line(code)
            raise CellError(f"{state} after {self.timeout:.0f} s: {what}") from None
        output = "".join(texts)
        content = reply["content"]
        if content["status"] == "error":
            raise CellError(f"{content['ename']}: {first_line(content['evalue'])}")
        if found := re.search(r"^(Error|Failed|❌).*", output, re.MULTILINE):
            raise CellError(first_line(found.group()))
        return Cell(sent, seconds, output, len(json.dumps([output, displays])))

    def processes(self) -> dict[int, psutil.Process]:
        """The processes that the kernel started and that are alive, without the kernel."""
        kernel: int | None = getattr(self.manager.provisioner, "pid", None)
        found: dict[int, psutil.Process] = {}
        if kernel is not None:
            with contextlib.suppress(psutil.Error):
                found = {p.pid: p for p in psutil.Process(kernel).children(recursive=True)}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self.mark:
                    found[process.pid] = process
        return {pid: p for pid, p in found.items() if pid != kernel and alive(p)}

    def close(self) -> None:
        """End the kernel; note what is still there 2 s later, and kill it."""
        watched = self.processes()
        if self.client is not None:
            self.client.stop_channels()
            self.client = None
        if self.manager.has_kernel:
            with contextlib.suppress(Exception):
                self.manager.shutdown_kernel(now=False)
            if self.manager.is_alive():
                self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        watched |= self.processes()
        _, left = psutil.wait_procs(list(watched.values()), timeout=2)
        for process in left:
            if alive(process):
                self.left_behind += 1
                with contextlib.suppress(psutil.Error):
                    process.kill()
        psutil.wait_procs(left, timeout=3)
        shutil.rmtree(self.folder, ignore_errors=True)


def machine() -> dict[str, str]:
    """What the figures depend on: processor, system, versions."""
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    found = {
        "cores": str(len(os.sched_getaffinity(0))),
        "cpu": model or "unknown",
        "system": platform.platform(terse=True),
        "load average": f"{os.getloadavg()[0]:.2f} at the start",
        "python": platform.python_version(),
    }
    for name in ("torch", "ipykernel", "accelnb", "accelerate", "ipyparallel", "nbdistributed"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "-"
    return found


def alive(process: psutil.Process) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def first_line(text: str) -> str:
    """The first line of `text` that says something, without colours, cut to fit a table."""
    for line in ANSI.sub("", text).splitlines():
        if line.strip():
            return line.strip()[:160]
    return ""


def memory(pid: int, file: str = "smaps_rollup", name: str = "Pss") -> float:
    """MB that a process's file in /proc says, by default its proportional set size; else 0."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def import_times(statement: str, times: int) -> list[float]:
    """Seconds of an import in fresh interpreters; the first one is not counted."""
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    runs = [subprocess.check_output(command, text=True, timeout=120) for _ in range(times + 1)]
    return [float(printed) for printed in runs[1:]]


OUT = object()  # in the arguments of loops, for the file that they write


def run_loops(script: Path, ranks: int, arguments: Sequence[Any]) -> dict[str, Any]:
    """Run a script of loops, under torchrun if on several ranks; return the JSON that it writes."""
    command = [sys.executable]
    if ranks > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        given = [str(out if argument is OUT else argument) for argument in arguments]
        done = subprocess.run(
            [*command, str(script), *given],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"the loops failed:\n{done.stderr[-3000:]}")
        return json.loads(out.read_text())
