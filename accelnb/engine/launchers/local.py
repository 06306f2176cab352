"""Ranks on this machine, started through the fork server."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelnb.engine.launchers.memory_meter import Held, MemoryMeter
from accelnb.engine.launchers.tpu_environment import host_of, launch_environment
from accelnb.engine.process.children import start_python
from accelnb.engine.process.procfs import process_state
from accelnb.engine.wire import lifecycle
from accelnb.engine.wire.channel import Channel
from accelnb.engine.wire.messages import Link
from accelnb.engine.wire.socket_folder import new_socket_folder
from accelnb.errors import AccelnbError
from accelnb.options.config import LaunchConfig
from accelnb.options.environment import working_folder

# Imported before any rank starts. torch._dynamo is what the first DDP constructor imports.
_ALWAYS = ("torch", "torch.distributed", "torch._dynamo", "accelnb.worker.main")
# Imported too when the notebook has them: none of these touches a device at import.
_IF_IN_NOTEBOOK = (
    "numpy", "pandas", "scipy", "sklearn", "PIL.Image", "matplotlib.pyplot",
    "matplotlib_inline.backend_inline", "torchvision", "torchaudio", "tqdm.auto", "einops",
)  # fmt: skip
_numbers = itertools.count(1)  # of the groups of this process


class ForkServer:
    """The notebook's handle on its fork server process.

    The process starts at once and imports torch in the background. It ends with `close`, or
    when this process ends in whatever way: its control socket then reports end-of-file.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self.sockets = new_socket_folder()
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="accelnb-"))  # mode 0700; for logs
        except OSError as error:
            self.sockets.rmdir()
            raise AccelnbError(f"there is no folder for temporary files: {error}") from None
        self._owner = os.getpid()
        self._control, theirs = Channel.pair()
        package = str(Path(__file__).parents[3])
        here = ("", working_folder())
        with (self.folder / "server.log").open("wb") as log:
            self.process = start_python(
                "accelnb.worker.fork_server",
                theirs.fileno(),
                folder=str(self.folder),
                path=[package, *(entry for entry in sys.path if entry not in here)],
                stdout=log,
                stderr=log,
            )
        theirs.close()
        self._control.send(
            {
                "modules": list(modules),
                "folder": str(self.folder),
                "sockets": str(self.sockets),
            }
        )
        self._ready = threading.Event()
        self._reading = threading.Lock()

    def alive(self) -> bool:
        if self.process.poll() is not None or self._owner != os.getpid():
            return False
        return not self._control.hung_up()  # a server that is dying has closed its end already

    def wait_ready(self, timeout: float = 120.0) -> None:
        """Wait until the server has imported torch and can start ranks in milliseconds.

        Raises
        ------
        AccelnbError
            The server ended or was not ready within `timeout` seconds; with its last output.
        """
        with self._reading:
            if self._ready.is_set():
                return
            self._control.settimeout(timeout)
            try:
                self._control.receive()
            except (EOFError, OSError) as exc:
                raise AccelnbError(
                    f"the fork server did not get ready: {self.last_words()}"
                ) from exc
            finally:
                self._control.settimeout(None)
            self._ready.set()

    def open_group(self, config: LaunchConfig) -> LocalRanks:
        """Return a new, empty group of ranks that the server will own."""
        ours, theirs = Channel.pair()
        try:
            self._control.send({"op": "group", "host": host_of(config)}, [theirs.fileno()])
        except OSError as error:
            ours.close()
            raise AccelnbError(f"the fork server ended: {self.last_words()}") from error
        finally:
            theirs.close()
        return LocalRanks(self, ours, config)

    def last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)  # it closes its sockets before it says why it ends
        log = self.folder / "server.log"
        text = log.read_text(errors="replace").strip() if log.exists() else ""
        return text.splitlines()[-1] if text else "it was killed"

    def close(self) -> None:
        """End the server and with it every rank; wait until it is gone."""
        if self._owner != os.getpid():
            return  # a forked copy of the notebook's process does not own the server
        self._control.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for folder in (self.folder, self.sockets):
            shutil.rmtree(folder, ignore_errors=True)


class LocalRanks:
    """The rank processes of one group. Closing it kills those that still live."""

    def __init__(self, server: ForkServer, channel: Channel, config: LaunchConfig) -> None:
        self._server = server
        self._channel = channel
        self._config = config
        self._procs = config.procs
        self._launch_env: dict[str, str] = {}  # made anew when all ranks start
        self._meter = MemoryMeter(config.device)
        self._socket = server.sockets / f"group-{next(_numbers)}.sock"
        self._store: socket.socket | None = None  # until rank 0 has inherited it

    @property
    def folder(self) -> Path:
        return self._server.folder / "logs"

    def fileno(self) -> int:
        """Return the descriptor that is readable when `receive` has news."""
        return self._channel.fileno()

    def listen(self, key: bytes) -> Link:
        return Link.listen(f"ipc://{self._socket}", key)

    def open_store(self, host: str = "127.0.0.1") -> tuple[str, int]:
        self._close_store()
        self._store = socket.create_server((host, 0))
        self._launch_env = launch_environment(self._config)
        return host, self._store.getsockname()[1]

    def context(self) -> dict[str, Any]:
        return where_it_runs() | {"env": dict(os.environ)}

    def describe(self, rank: int) -> dict[str, Any]:
        return {
            "local_rank": rank,
            "local_world_size": self._procs,
            "interface": "lo",  # a laptop's changing network does not matter
            "same_machine": True,
        }

    def start(self, spec: dict[str, Any], method: str) -> None:
        """Ask for the rank that `spec` describes; rank 0 inherits the socket of its store."""
        spec = spec | {"launch_env": self._launch_env, "folder": str(self._server.folder)}
        request = {"op": "start", "rank": spec["rank"], "method": method, "spec": spec}
        takes = [self._store.fileno()] if self._store is not None and spec["rank"] == 0 else []
        try:
            self._channel.send(request, takes)
        finally:
            if takes:
                self._close_store()

    def kill(self, rank: int) -> None:
        with contextlib.suppress(OSError):
            self._channel.send({"op": "kill", "rank": rank})

    def receive(self) -> tuple[int, int] | lifecycle.Exit:
        """Return ``(rank, pid)`` of a start or an `Exit`; raise EOFError if the server died."""
        try:
            message, _ = self._channel.receive()
        except ConnectionError:
            raise EOFError from None
        return lifecycle.read(message)

    def held(self, pids: Sequence[int]) -> dict[int, Held]:
        return self._meter.read(pids)

    def state(self, pid: int) -> str | None:
        return process_state(pid)

    def alive(self) -> bool:
        return self._server.alive() and not self._channel.hung_up()

    def last_words(self) -> str:
        if not self._server.alive():
            return f"the fork server ended: {self._server.last_words()}"
        if host_of(self._config):
            return f"torch_xla's launcher ended: {self._server.last_words()}"
        return "the fork server let go of these ranks, for this process did not listen to it"

    def close(self) -> None:
        self._channel.close()
        self._close_store()
        with contextlib.suppress(FileNotFoundError):  # it ended with its fork server
            self._socket.unlink()

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store = None


def where_it_runs() -> dict[str, Any]:
    """Return this process's folder and import path, and the settings that it was given.

    The folder is None where it was removed.
    """
    # Not while the extension loads: no rank asks for it yet.
    from accelnb.engine.settings.snapshot import settings_now

    return {"cwd": working_folder(), "path": list(sys.path), "settings": settings_now()}


_server: ForkServer | None = None
_server_lock = threading.Lock()


def fork_server() -> ForkServer:
    """Return this process's fork server; start one if there is none alive."""
    global _server
    with _server_lock:
        if _server is None or not _server.alive():
            if _server is not None:
                _server.close()
            _server = ForkServer(modules_to_preload())
        return _server


def close_fork_server() -> None:
    global _server
    with _server_lock:
        if _server is not None:
            _server.close()
        _server = None


def modules_to_preload() -> list[str]:
    """Return what a fork server started by this process is to import."""
    if not sys.platform.startswith("linux"):
        return []  # ranks are spawned there: nothing would be inherited
    return [*_ALWAYS, *(name for name in _IF_IN_NOTEBOOK if name in sys.modules)]


atexit.register(close_fork_server)
