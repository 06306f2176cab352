"""A notebook for tests: a real kernel, driven as a front end drives it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

START = 60.0  # s for a kernel or a fork server on a loaded machine


@dataclass
class Output:
    """What a cell left: its status, its text by stream, its displays, its error."""

    status: str = ""
    stdout: str = ""
    stderr: str = ""
    displays: list[dict[str, Any]] = field(default_factory=list)  # mime bundles, in order
    ename: str = ""
    error: str = ""  # the traceback as shown, without colours
    seconds: float = 0.0
    is_to_be_cleared: bool = False

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()

    @property
    def said(self) -> set[str]:
        """What ranks said, without the ranks: equal lines are one, however far apart they came."""
        return {re.sub(r"^\[[\d,\- ]+\] ", "", line) for line in self.lines}

    @property
    def value(self) -> str:
        """The cell's own last value, as text."""
        return self.displays[-1]["text/plain"]


class Notebook:
    """A real Jupyter kernel, driven as a front end drives it."""

    def __init__(self, folder: Path) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(
            cwd=str(folder),
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        client = self.manager.client()
        assert isinstance(client, BlockingKernelClient)
        self.client = client
        self.client.start_channels()
        self.client.wait_for_ready(timeout=START)

    @property
    def pid(self) -> int:
        return self.manager.provisioner.pid  # type: ignore[union-attr]

    def run(
        self,
        code: str,
        *,
        timeout: float = 60.0,
        fails: bool = False,
        on_output: Callable[[Output], None] | None = None,
    ) -> Output:
        """Run a cell and return its output; an error must be expected with `fails`."""
        output = Output()
        start = time.monotonic()

        def take(message: dict[str, Any]) -> None:
            _take(output, message)
            if on_output is not None:
                on_output(output)

        reply = self.client.execute_interactive(code, timeout=timeout, output_hook=take)
        output.seconds = time.monotonic() - start
        output.status = reply["content"]["status"]
        expected = "error" if fails else "ok"
        assert output.status == expected, f"{output.status}:\n{output.error}\n{output.stderr}"
        return output

    def load(self) -> None:
        """Load the extension and wait until its fork server is warm."""
        self.run("%load_ext accelnb")
        self.run(
            "from accelnb.engine.launchers.local import fork_server as _fork_server\n"
            f"_fork_server().wait_ready({START})",
            timeout=2 * START,
        )

    def processes(self) -> list[psutil.Process]:
        """Return the fork server and the ranks: all below the kernel, and their children."""
        return psutil.Process(self.pid).children(recursive=True)

    def interrupt(self) -> None:
        """Press the stop button."""
        self.manager.interrupt_kernel()

    def kill(self) -> None:
        """Kill the kernel with SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        self.client.stop_channels()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


def _take(output: Output, message: dict[str, Any]) -> None:
    kind, content = message["msg_type"], message["content"]
    if output.is_to_be_cleared and kind in ("stream", "display_data", "execute_result", "error"):
        _clear(output)
    if kind == "clear_output" and content["wait"]:
        output.is_to_be_cleared = True
    elif kind == "clear_output":
        _clear(output)
    elif kind == "stream":
        setattr(output, content["name"], getattr(output, content["name"]) + content["text"])
    elif kind in ("display_data", "execute_result"):
        bundle = content["data"] | {"display_id": content.get("transient", {}).get("display_id")}
        output.displays.append(bundle)
    elif kind == "update_display_data":
        for bundle in output.displays:
            if bundle["display_id"] == content["transient"]["display_id"]:
                bundle.update(content["data"])
    elif kind == "error":
        output.ename = content["ename"]
        output.error = without_colours("\n".join(content["traceback"]))


def _clear(output: Output) -> None:
    output.stdout, output.stderr, output.displays = "", "", []
    output.is_to_be_cleared = False


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def accelnb_processes() -> set[int]:
    """Return the pids of all fork servers and ranks of this user's machine."""
    found = set()
    for process in psutil.process_iter(["cmdline", "status"]):
        command = " ".join(process.info["cmdline"] or [])
        if "accelnb.engine.launchers" in command or "accelnb.worker" in command:
            found.add(process.pid)
    return found


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Return whether `condition` came true within `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def children(notebook: Notebook) -> list[psutil.Process]:
    try:
        return notebook.processes()
    except psutil.NoSuchProcess:
        return []  # the test killed the kernel


def assert_ended(pids: set[int]) -> None:
    def alive() -> list[int]:
        return [pid for pid in pids if psutil.pid_exists(pid) and not _is_zombie(pid)]

    assert wait_until(lambda: not alive(), 3), f"processes left behind: {alive()}"


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
