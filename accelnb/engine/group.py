"""The live ranks of a notebook: start, run, interrupt, replace, shut down."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from accelnb.devices import DEVICES
from accelnb.engine.failure import Failure, name_ranks
from accelnb.engine.launchers.choice import open_ranks
from accelnb.engine.router import Request, Router
from accelnb.engine.run import Run
from accelnb.engine.run_log import new_log
from accelnb.engine.serialization.pack import Packed
from accelnb.engine.stall_report import Place
from accelnb.engine.wire.queries import Query
from accelnb.engine.workers import Worker, failure_of
from accelnb.errors import AccelnbError
from accelnb.options.config import SHAPE, LaunchConfig

_START_TIMEOUT = 120.0  # s; most of it for importing torch
_FORM_TIMEOUT = 30.0
_GRACE = 1.0  # s for ranks to end by themselves


class WorkerGroup:
    """A fixed number of ranks with a process group among them. One run at a time.

    Parameters
    ----------
    config
        A resolved configuration: `procs`, `device` and `start` are concrete.

    Raises
    ------
    AccelnbError
        A rank did not start; with its last output.

    Examples
    --------
    >>> from accelnb.options.config import LaunchConfig
    >>> from accelnb.engine.group import WorkerGroup
    >>> group = WorkerGroup(LaunchConfig(procs=2, device="cpu", start="fork"))
    >>> cell = {"code": "rank", "source": "rank", "name": "<cell>", "number": 1}
    >>> request = {"cell": cell, "result": True}
    >>> run = group.run("execute_request", {rank: (request, []) for rank in group.ranks})
    >>> run.wait(60)
    True
    >>> list(run.results())
    [0, 1]
    >>> group.shutdown()
    """

    def __init__(self, config: LaunchConfig) -> None:
        self.config = config
        self.ranks = tuple(range(config.world_size))
        self._closed = False
        self._generation = 0
        self._store = ("", 0)
        self._context: dict[str, Any] = {}
        self._key = secrets.token_bytes(32)
        self._launched = open_ranks(config)
        try:
            link = self._launched.listen(self._key)
        except BaseException:
            self._launched.close()
            raise
        self._address = link.address
        self._router = Router(link, self._launched, self.ranks)
        self._router.start()
        try:
            self._form(self.ranks)
        except BaseException:
            self.shutdown(grace=0)
            raise

    @property
    def alive(self) -> bool:
        """Whether the group can run a cell, if need be with a rank replaced."""
        return not self._closed and not self._router.failed and self._launched.alive()

    @property
    def busy(self) -> bool:
        return self._router.busy

    @property
    def workers(self) -> tuple[Worker, ...]:
        return tuple(self._router.workers.values())

    def make_ready(self) -> tuple[int, ...]:
        """Replace ranks that ended, remake a broken process group; return the replaced ranks."""
        self._refuse_if_busy()
        dead = tuple(worker.rank for worker in self.workers if worker.exit)
        if not dead and not self._router.regroup:
            return ()
        try:
            if dead and not DEVICES[self.config.device].rejoins:
                dead = self._end_the_others()
            self._form(dead)
        except KeyboardInterrupt:
            if dead:
                self.shutdown(grace=0)
            self._router.regroup = True  # the ranks end what they are at, then begin anew
            raise
        except BaseException:
            self.shutdown(grace=0)
            raise
        return dead

    def run(
        self,
        kind: str,
        requests: Mapping[int, Request],
        *,
        timeout: float | None = None,
        stall: float | None = None,
        lent: Iterable[Packed | None] = (),
        advice: Callable[[Failure], str | None] | None = None,
    ) -> Run:
        """Start a request on some ranks and return its `Run`.

        A rank that ended since `make_ready` is a failure of the run: one started in its place
        would lack the variables that the request counts on.

        Parameters
        ----------
        kind
            ``execute_request`` for a cell, ``call_request`` for a function.
        requests
            For each rank that takes part, what `accelnb.worker.main` reads: the message's
            content and its buffers.
        timeout
            Seconds after which the ranks are interrupted.
        stall
            Seconds without any progress after which the run says where every rank is.
        lent
            What the requests refer to in shared memory; closed when the run is over.
        advice
            What the caller can add to the text of a failure; called in the router's thread.
        """
        self._refuse_if_busy()
        named = {"ranks": list(requests), "run": secrets.token_hex(4)}
        everyone = self._changes_of_context() | named
        log = new_log(self._launched.folder)
        run = Run(tuple(requests), log, self._router.stop, timeout, stall, lent, advice)
        completed = {rank: (c | everyone, buffers) for rank, (c, buffers) in requests.items()}
        self._router.begin(run, kind, completed)
        return run

    def ask(self, query: dict[str, Any]) -> Query | None:
        """Ask rank 0 what `accelnb.worker.completion` reads; None while it has no time for it."""
        if self.busy or not self.alive or self._router.workers[0].exit:
            return None
        return self._router.ask(0, query)

    def where(self) -> list[Place]:
        """Return where every rank is, also while it runs a cell or is inside C++ code."""
        return self._router.where()

    def restart(self, config: LaunchConfig) -> bool:
        """End every rank and start new ones in their places, which a cluster does not do fast.

        Returns
        -------
        restarted : bool
            If not, `config` asks for other ranks, or these could not be ended: use `shutdown`.
        """
        if not self.alive or not same_shape(config, self.config):
            return False
        try:
            if not self._end_ranks(_GRACE):
                return False
            self._router.ending = False
            self.config = config
            self._form(self.ranks)
        except BaseException:
            self.shutdown(grace=0)
            raise
        return True

    def shutdown(self, grace: float = _GRACE) -> None:
        """End every rank: asked first, killed after `grace` seconds. Wait until all are gone."""
        if self._closed:
            return
        self._closed = True
        self._end_ranks(grace)
        self._router.close()
        self._launched.close()

    def _end_ranks(self, grace: float) -> bool:
        """End every rank; return whether each has said so."""
        self._router.ending = True
        if grace:
            self._router.broadcast("shutdown_request", {}, self.ranks)
            self._wait_for_exits(grace)
        for rank in self.ranks:
            self._launched.kill(rank)
        self._wait_for_exits(2)
        return all(worker.exit for worker in self.workers)

    def _end_the_others(self) -> tuple[int, ...]:
        """End the ranks that are left, for all must start together; return all ranks."""
        if not self._end_ranks(grace=0):
            raise AccelnbError("ranks that are left of an ended group could not be ended")
        self._router.ending = False
        return self.ranks

    def _wait_for_exits(self, timeout: float) -> None:
        if self._router.failed:
            return  # nobody would notice; they end when their channel is closed
        with self._router.changed:
            self._router.changed.wait_for(
                lambda: all(worker.exit or not worker.pid for worker in self.workers), timeout
            )

    def _refuse_if_busy(self) -> None:
        if self.busy:
            raise AccelnbError("the ranks are busy with another cell: stop it or wait for it")

    def _form(self, new: Sequence[int]) -> None:
        """Start the ranks in `new` and make a process group of them and the others."""
        self._generation += 1
        self._router.regroup = False
        try:
            if 0 in new:
                self._store = self._launched.open_store()
            for rank in new:
                incarnation = self._router.workers[rank].incarnation + 1
                self._router.workers[rank] = Worker(rank, incarnation)
                self._launched.start(self._spec(rank), self.config.start)
        except OSError as exc:
            raise AccelnbError(self._launched.last_words()) from exc
        survivors = [rank for rank in self.ranks if rank not in new]
        self._router.broadcast("form_request", self._rendezvous(), survivors)
        self._await_formed(_START_TIMEOUT if new else _FORM_TIMEOUT)

    def _rendezvous(self) -> dict[str, Any]:
        host, port = self._store
        return {"generation": self._generation, "host": host, "port": port}

    def _spec(self, rank: int) -> dict[str, Any]:
        self._context = self._launched.context()
        return self._launched.describe(rank) | {
            "rank": rank,
            "world_size": len(self.ranks),
            "device": self.config.device,
            "address": self._address,
            "key": self._key.hex(),
            "identity": self._router.workers[rank].identity.decode(),
            "rendezvous": self._rendezvous(),
            "context": self._context,
        }

    def _await_formed(self, timeout: float) -> None:
        def settled() -> bool:
            return any(worker.exit for worker in self.workers) or not missing()

        def missing() -> list[int]:
            return [m.rank for m in self.workers if m.formed != self._generation]

        with self._router.changed:
            self._router.changed.wait_for(settled, timeout)
        if self._router.orphaned:
            raise AccelnbError(self._launched.last_words())
        for worker in self.workers:
            if worker.exit and worker.exit.never_began:
                # Of ranks that start together, the reason may be another's.
                alone = DEVICES[self.config.device].rejoins
                who = f"rank {worker.rank}" if alone else "the ranks"
                reason = worker.exit.never_began
                raise AccelnbError(f"{who} could not be started: {reason}")
            if worker.exit:
                failure = failure_of(worker.exit, worker.last_output)
                raise AccelnbError(f"rank {worker.rank} did not start: it {failure.evalue}")
        if missing():
            raise AccelnbError(f"{name_ranks(missing())} did not start within {timeout:g} s")

    def _changes_of_context(self) -> dict[str, Any]:
        """Return what changed since the ranks were told where the notebook runs."""
        told, now = self._context, self._launched.context()
        self._context = now
        changes = {key: now[key] for key in ("cwd", "path") if now[key] != told[key]}
        for key in ("settings", "env"):
            if changed := _changed(told[key], now[key]):
                changes[key] = changed
        return {"context": changes} if changes else {}


def same_shape(one: LaunchConfig, other: LaunchConfig) -> bool:
    """Return whether the same ranks do for both."""
    return all(getattr(one, name) == getattr(other, name) for name in SHAPE)


def _changed(told: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str | None]:
    """Return what makes `now` of `told`; None for what is no longer there."""
    if told is now:
        return {}
    names = told.keys() | now.keys()
    return {name: now.get(name) for name in names if now.get(name) != told.get(name)}
