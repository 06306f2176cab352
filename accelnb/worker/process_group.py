"""The rank's process group: made before the first cell, made again when it broke."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch._C import _distributed_c10d  # pyright: ignore
from torch.distributed import distributed_c10d as c10d
from torch.nn.parallel import DistributedDataParallel

from accelnb.worker.lost_peer import LOST_PEER
from accelnb.worker.store_waits import wrap_stores
from accelnb.worker.subgroups import Subgroup, Subgroups
from accelnb.worker.tcp_connections import Connections
from accelnb.worker.waits import Wait, Waits

_NO_SUCH_GROUP = re.compile(
    r"is not initialized in the world group map|Could not resolve the process group"
)
_GLOO = re.compile(
    r"gloo|undefined"
)  # backends that a group has gloo by: "undefined" is the default
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
        self,
        rank: int,
        world_size: int,
        backend: str,
        listener: int | None,
        aborts: bool,
        interrupted: Callable[[], None],
    ) -> None:
        self._rank, self._world_size = rank, world_size
        self._backend, self._aborts = backend, aborts
        self._listener = listener
        self._address: tuple[str, int] | None = None  # of the store
        self._generation = 0
        self._user_groups = 0
        self._store: dist.TCPStore  # this rank's client of it
        self._store_is_cut = True  # there is no such connection, or no more
        self._subgroups = Subgroups()
        self._connections = Connections()  # of gloo
        self._store_connections = Connections()  # of clients of stores
        self.waits = Waits(interrupted, self.unstick)
        wrap_stores(self.waits, self._store_connections, lambda *address: address == self._address)
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
        self._subgroups.end()
        # A peer may be gone, for which nccl would wait.
        self._destroy(abort=self.broken or self._aborts)
        if forget := getattr(_distributed_c10d, "_reset_fr_recording_nccl", None):
            forget()  # collectives that were aborted, which could look as if they still waited
        store = dist.PrefixStore(f"generation-{self._generation}", self._store)
        self._init(self._backend, store=store, rank=self._rank, world_size=self._world_size)
        self.broken = False
        if self._generation > 1:
            self._subgroups.renew(store, self._rank, self._world_size)

    def begin(self) -> None:
        """Take note that a new cell begins."""
        self.replaceable = True
        self.waits.begin()

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

    def unstick(self, of_store: bool = False) -> None:
        """Make what the main thread waits for raise; call from any thread.

        A backend that can is aborted. gloo cannot be: its connections are cut too. The group is
        unusable from then on.

        Parameters
        ----------
        of_store
            The wait is for a store: connections to stores are cut too.
        """
        self.broken = self.waits.stopped = True
        if self._aborts:
            _abort(list(c10d._world.pg_map))
        self._connections.cut()
        if of_store:
            self._store_is_cut = True
            self._store_connections.cut()

    def _connect(self, host: str, port: int) -> None:
        if (host, port) != self._address:
            self._address, self._store_is_cut = (host, port), True
            self._store_connections.forget()
            if self._rank == 0:  # nobody waits on the server's own connection, which is never cut
                self._server = self._open_store(serves=True, listener=self._listener)
            os.environ.update(MASTER_ADDR=host, MASTER_PORT=str(port))
        if self._store_is_cut:
            self._store = self._open_store(serves=False, listener=None)
            self._store_is_cut = False

    def _open_store(self, serves: bool, listener: int | None) -> dist.TCPStore:
        assert self._address is not None
        host, port = self._address
        return dist.TCPStore(
            host,
            port,
            self._world_size,
            is_master=serves,
            wait_for_workers=False,
            master_listen_fd=listener,
        )

    def _destroy(self, abort: bool) -> None:
        if not dist.is_initialized():
            c10d._world.group_count = 0  # else a group that could not be made would still count
            return
        if abort:
            with contextlib.suppress(RuntimeError):
                c10d._abort_process_group()
        if dist.is_initialized():
            dist.destroy_process_group()
        self._connections.forget()

    def _install_hooks(self) -> None:
        make_group = c10d._new_process_group_helper

        @functools.wraps(make_group)
        def make_and_note(
            size: int,
            rank: int | None,
            ranks: list[int],
            backend: Any,
            store: Any,
            group_name: Any,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            __tracebackhide__ = True
            name = "new_group" if ranks else "init_process_group"
            peers = tuple(r for r in ranks or range(size) if r != self._rank)
            wait = Wait(name, peers, breaks="store")
            try:
                if rank is not None and _GLOO.search(str(backend)):
                    timeout = kwargs.get("timeout") or store.timeout
                    self._await_members(wait, size, store, group_name, timeout)
                with self.waits.noted(wait), self._connections.noting(self._is_not_of_store):
                    made = make_group(
                        size, rank, ranks, backend, store, group_name, *args, **kwargs
                    )
            except (RuntimeError, KeyboardInterrupt):
                self.broken = True  # some ranks have it: from now on they would name groups apart
                raise
            if ranks and rank is not None:
                given = {key: kwargs.get(key) for key in ("timeout", "group_desc")}
                options = {key: value for key, value in given.items() if value is not None}
                self._subgroups.note(str(group_name), Subgroup(tuple(ranks), str(backend), options))
            return made

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
                self._subgroups.forget()
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

    def _await_members(
        self, wait: Wait, size: int, store: Any, group_name: str, timeout: timedelta
    ) -> None:
        """Wait for all ranks of a new group here: where gloo does, a signal is not noticed."""
        __tracebackhide__ = True
        key = f"arrived/{group_name}"
        number = store.add(key, 1)
        everyone = -(-number // size) * size  # the name may have been used before
        wait = wait._replace(breaks="")
        late = dist.DistStoreError(f"not all ranks came to {wait.what} within {timeout}")
        self.waits.until(lambda: store.add(key, 0) >= everyone, wait, timeout, late)

    def _is_not_of_store(self, local_port: int, peer_port: int) -> bool:
        return self._address is None or self._address[1] not in (local_port, peer_port)


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
