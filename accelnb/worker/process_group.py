"""The rank's process group: made before the first cell, made again when it broke."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch._C import _distributed_c10d  # pyright: ignore
from torch.distributed import distributed_c10d as c10d
from torch.nn.parallel import DistributedDataParallel

from accelnb.engine.failure import LOST_PEER
from accelnb.engine.launchers.open_files import open_files

_NO_SUCH_GROUP = re.compile(
    r"is not initialized in the world group map|Could not resolve the process group"
)
# Errors and waits of nccl are the notebook's matter, which names ranks, stops them and keeps their
# variables. By default nccl's own threads end the process: when a peer is lost, when a collective
# has waited for ten minutes, when a kernel failed, or when a rank was held up for eight minutes.
_NCCL = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
    "TORCH_NCCL_RETHROW_CUDA_ERRORS": "0",
}
# What tells which collective a rank waits in; in torch 2.9 it is off by default.
_FLIGHT_RECORDER = {"TORCH_FR_BUFFER_SIZE": "2000"}
_ABORT = 1.0  # s; a rank that has not answered an interrupt after 2.2 is killed


class RankProcessGroup:
    """Owns the default process group of this rank and the store behind it.

    The store is a TCPStore that rank 0 serves on a port which the system picked, as torchrun's
    agent does: ``MASTER_ADDR`` and ``MASTER_PORT`` name it.
    """

    def __init__(
        self, rank: int, world_size: int, backend: str, listener: int | None, aborts: bool
    ) -> None:
        self._rank, self._world_size = rank, world_size
        self._backend, self._aborts = backend, aborts
        self._listener = listener
        self._address: tuple[str, int] | None = None  # of the store
        self._generation = 0
        self._user_groups = 0
        self._sockets: dict[int, str] = {}  # of gloo: descriptor -> what /proc calls it
        # A cell may call init_process_group as a script would; once a cell.
        self.replaceable = True
        self.broken = False  # a connection of it is gone: it has to be made anew
        self._init = dist.init_process_group
        self._install_hooks()
        for name, value in (_FLIGHT_RECORDER | (_NCCL if aborts else {})).items():
            os.environ.setdefault(name, value)

    def form(self, rendezvous: dict[str, Any]) -> None:
        """Make the default group of the given generation, in place of any there is."""
        self._connect(rendezvous["host"], rendezvous["port"])
        self._generation = rendezvous["generation"]
        self._user_groups = 0
        # A peer may be gone, for which nccl would wait.
        self._destroy(abort=self.broken or self._aborts)
        if forget := getattr(_distributed_c10d, "_reset_fr_recording_nccl", None):
            forget()  # collectives that were aborted, which could look as if they still waited
        store = dist.PrefixStore(f"generation-{self._generation}", self._store)
        self._init(self._backend, store=store, rank=self._rank, world_size=self._world_size)
        self.broken = False

    @property
    def usable(self) -> bool:
        return dist.is_initialized() and not self.broken

    def sequences(self) -> dict[str, int]:
        """Return how many collectives each process group has made, by its name and device."""
        counts = {}
        for group, name in c10d._world.pg_names.items():
            if not group._device_types:  # a group written in Python
                with contextlib.suppress(RuntimeError):
                    counts[name] = group._get_sequence_number_for_group()  # pyright: ignore
            for device in group._device_types:
                with contextlib.suppress(RuntimeError):  # a backend that does not count
                    backend: Any = group._get_backend(device)
                    counts[f"{name} {device.type}"] = backend._get_sequence_number_for_group()
        return counts

    def wrapped_on_old(self, error: str, variables: Mapping[str, Any]) -> str | None:
        """Say that a model was wrapped on a group that is gone, if `error` came of that."""
        if _NO_SUCH_GROUP.search(error):
            what, again = "a model, optimizer or mesh", "make the mesh and fully_shard(model) again"
        elif LOST_PEER.search(error) and (gone := _on_old_groups(variables)):
            what = " and ".join(gone)
            name = gone[0]
            again = (
                f"wrap the model again, as in DistributedDataParallel({name}.module), or with "
                f"accelerator.prepare({name})"
            )
        else:
            return None
        return (
            f"{what} was made on a process group that ended when ranks were interrupted or lost: "
            f"{again}"
        )

    def unstick(self) -> None:
        """Make the collective that the main thread waits in raise; call from another thread.

        A backend that can is aborted. gloo cannot be: its connections are shut down too. Listening
        sockets are not among them, for gloo ends the process when one of those fails. The
        group is unusable from then on.
        """
        self.broken = True
        if self._aborts:
            _abort(list(c10d._world.pg_map))
        for fd, name in list(self._sockets.items()):
            with contextlib.suppress(OSError):  # closed meanwhile
                if os.readlink(f"/proc/self/fd/{fd}") == name:
                    with socket.socket(fileno=os.dup(fd)) as copy:
                        copy.shutdown(socket.SHUT_RDWR)

    def _connect(self, host: str, port: int) -> None:
        if (host, port) == self._address:
            return
        self._address = (host, port)
        serves = self._rank == 0
        self._store = dist.TCPStore(
            host,
            port,
            self._world_size,
            is_master=serves,
            wait_for_workers=False,
            master_listen_fd=self._listener if serves else None,
        )
        os.environ.update(MASTER_ADDR=host, MASTER_PORT=str(port))

    def _destroy(self, abort: bool) -> None:
        if not dist.is_initialized():
            return
        if abort:
            with contextlib.suppress(RuntimeError):
                c10d._abort_process_group()
        if dist.is_initialized():
            dist.destroy_process_group()
        self._sockets.clear()

    def _install_hooks(self) -> None:
        make_group = c10d._new_process_group_helper

        @functools.wraps(make_group)
        def make_and_note(*args: Any, **kwargs: Any) -> Any:
            before = _open_sockets()
            try:
                return make_group(*args, **kwargs)
            finally:
                self._note_sockets(before)

        @functools.wraps(self._init)
        def init_process_group(
            backend: str | None = None,
            init_method: str | None = None,
            timeout: Any = None,
            world_size: int = -1,
            rank: int = -1,
            store: Any = None,
            *args: Any,
            **kwargs: Any,
        ) -> None:
            if self.replaceable:
                self.replaceable = False
                self._destroy(abort=self.broken)
            if store is None and init_method in (None, "env://"):
                # torch would look for the store at MASTER_PORT: this is that one, with a
                # prefix of its own, so that a cell can be run again.
                self._user_groups += 1
                prefix = f"generation-{self._generation}/{self._user_groups}"
                store, init_method = dist.PrefixStore(prefix, self._store), None
                rank, world_size = self._rank, self._world_size
            self._init(backend, init_method, timeout, world_size, rank, store, *args, **kwargs)

        c10d._new_process_group_helper = make_and_note
        c10d.init_process_group = dist.init_process_group = init_process_group

    def _note_sockets(self, before: dict[int, str]) -> None:
        for fd, name in _open_sockets().items():
            if before.get(fd) != name and self._is_peer_connection(fd):
                self._sockets[fd] = name

    def _is_peer_connection(self, fd: int) -> bool:
        try:
            with socket.socket(fileno=os.dup(fd)) as copy:
                if copy.family not in (socket.AF_INET, socket.AF_INET6):
                    return False
                ports = (copy.getpeername()[1], copy.getsockname()[1])  # raises if it listens
                return self._address is None or self._address[1] not in ports
        except OSError:
            return False


def _abort(groups: Sequence[dist.ProcessGroup]) -> None:
    """Abort groups at the same time: one can wait for what another has on the same device."""

    def abort(group: dist.ProcessGroup) -> None:
        with contextlib.suppress(RuntimeError):  # it was aborted before
            group.abort()

    threads = [threading.Thread(target=abort, args=(group,), daemon=True) for group in groups]
    for thread in threads:
        thread.start()
    end = time.monotonic() + _ABORT
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


def _on_old_groups(variables: Mapping[str, Any]) -> list[str]:
    return [
        name
        for name, value in variables.items()
        if isinstance(value, DistributedDataParallel)
        and value.process_group not in c10d._world.pg_map
    ]


def _open_sockets() -> dict[int, str]:
    """Return the open sockets; off Linux none is known, and an interrupt waits for the peers."""
    return {fd: name for fd, name in open_files().items() if name.startswith("socket:")}
