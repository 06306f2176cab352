"""A rank on torch_xla, in a process that torch_xla's own launcher made or prepared.

With several processes ``xmp.spawn`` calls its function in a thread of a pool. A rank needs the main
thread, for signals reach no other and the stop button is one. So a `SpawnTarget` is set up where it
is unpickled, which is in the main thread, and its call asks that thread by a signal to run the
rank; otherwise the main thread only waits for the pool.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import traceback
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from accelnb.engine.process.children import die_with_parent
from accelnb.engine.process.output_pipes import Output
from accelnb.engine.process.rank_environment import NO_PLUGINS
from accelnb.engine.wire.channel import Channel
from accelnb.worker.xla_environment import for_one_process

_ANSWER = 60.0  # s; the host answers at once, unless it is ending


def run_alone(spec: dict[str, Any], outputs: Sequence[Output], fds: Sequence[int]) -> int:
    """Be the only rank, in this process; return its status.

    torch_xla gives it one chip. Where a chip has several devices, all chips are taken and computed
    on as one (SPMD).
    """
    from torch_xla import runtime  # pyright: ignore[reportMissingImports]
    from torch_xla.distributed import xla_multiprocessing  # pyright: ignore[reportMissingImports]

    several = for_one_process(Path("/"), os.environ)
    if several is not None:
        os.environ.update(several)
        runtime.use_spmd()
    statuses: list[int] = []

    def be_rank(_: int) -> None:
        from accelnb.worker.main import run_rank

        statuses.append(run_rank(_with_launcher_environment(spec), outputs, fds))

    xla_multiprocessing.spawn(be_rank, nprocs=1)
    return statuses[0]


def _with_launcher_environment(spec: dict[str, Any]) -> dict[str, Any]:
    """Add what torch_xla has set in this process, which is not to go with the notebook's rest."""
    of_notebook = {**spec["context"]["env"], **NO_PLUGINS}
    added = {n: value for n, value in os.environ.items() if of_notebook.get(n) != value}
    return spec | {"launch_env": added}


class SpawnTarget:
    """What ``xmp.spawn`` calls in each process that it made: it runs a rank there.

    Parameters
    ----------
    address
        Of the Unix socket where the host of these processes says which rank to be.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def __reduce__(self) -> tuple[Any, ...]:
        return _ArrivedTarget, (self._address,)

    def __call__(self, index: int) -> None:
        raise RuntimeError("torch_xla called this in the process that launches ranks")


class _ArrivedTarget:
    """A `SpawnTarget` on the other side, made in the main thread of the new process."""

    def __init__(self, address: str) -> None:
        os.setsid()  # what a rank starts is killed with it
        die_with_parent(os.getppid())
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_ANSWER)
        connection.connect(address)
        self._channel = Channel(connection)
        self._channel.send({"event": "arrived", "pid": os.getpid()})
        answer, fds = self._channel.receive()
        writes = [fds.pop(0), fds.pop(0)]
        for number, fd in zip((1, 2), writes, strict=True):
            os.dup2(fd, number)
            os.close(fd)
        self._outputs = [Output(name, fds.pop(0), fds.pop(0)) for name in answer["outputs"]]
        self._over = threading.Event()
        # Nobody but torch_xla keeps this object: if a device fails, it goes, and with it the
        # connection, by which the host knows.
        run = weakref.WeakMethod(self._run)
        signal.signal(signal.SIGUSR1, lambda *_: cast(Any, run())())

    def __call__(self, index: int) -> None:
        """In a thread of the pool: learn which rank to be, and have the main thread be it."""
        from torch_xla import runtime  # pyright: ignore[reportMissingImports]

        # The other processes may be slow to take their devices; the host ends us if they fail.
        self._channel.settimeout(None)
        self._channel.send({"event": "ready", "rank": index, "world_size": runtime.world_size()})
        try:
            self._begin, self._fds = self._channel.receive()
        except (EOFError, ConnectionError):
            return
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGUSR1)
        self._over.wait()  # as long as the rank lives

    def _run(self) -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        spec = _with_launcher_environment(self._begin["spec"])
        status = 1
        try:
            from accelnb.worker.main import run_rank

            status = run_rank(spec, self._outputs, self._fds)
        except BaseException:  # nothing may leave this handler: the pool's thread would wait on
            traceback.print_exc()
        if status:
            os._exit(status)
        self._over.set()


def main(channel: int) -> None:
    """Entry of the process of a rank that is alone; see `accelnb.worker.main.main`."""
    from accelnb.worker.main import main

    main(channel, run_alone)
