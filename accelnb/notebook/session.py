"""The notebook's ranks: which group a cell runs on, and what it takes there and back."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from accelnb.config import (
    SHAPE,
    CellOptions,
    ConfigError,
    LaunchConfig,
    from_mapping,
    resolve,
)
from accelnb.engine.courier import Request
from accelnb.engine.group import WorkerGroup
from accelnb.engine.run import Run, name_ranks
from accelnb.engine.tensors import Packed
from accelnb.hardware import probe
from accelnb.notebook.capture import Capture, Sources
from accelnb.notebook.cell import Cell, cells_so_far
from accelnb.notebook.views.plain import PlainView, follow


class Session:
    """Everything accelnb keeps for one notebook.

    Parameters
    ----------
    shell
        The notebook's shell; cells take variables from its namespace and leave them there.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self.group: WorkerGroup | None = None
        self._capture = Capture(shell.user_ns, shell.user_ns_hidden)
        self._sources = Sources()
        self._distributed: set[str] = set()  # cells that ran on the ranks: they know them

    def run_cell(self, cell: Cell, given: Mapping[str, Any]) -> None:
        """Run `cell` on the ranks with the options that its magic line gave.

        Raises
        ------
        ConfigError
            An option is wrong; nothing was started or changed.
        CannotSend
            A variable cannot be sent; nothing was.
        RankError, RunInterrupted
            As the run ended.
        """
        options = from_mapping(CellOptions, given)
        config = resolve(from_mapping(LaunchConfig, given, self._shape_in_use()), probe())
        assert config.procs is not None
        ranks = _chosen(options, config.procs)
        if options.fresh or not self._fits(config):
            self._start(config)
        assert self.group is not None
        self._replace_dead(self.group)
        self._distributed.add(cell.name)
        packs = self._capture.pack(cell.names, ranks)
        requests = self._requests(cell, config, options, packs)
        run = self.group.run("execute_request", requests, config.timeout, packs.values())
        follow(run, PlainView(ranks, config.logs))
        self._bring_back(run, options)

    def shutdown(self) -> None:
        """End the ranks; the next cell starts new ones."""
        if self.group is not None:
            self.group.shutdown()
        self.group = None
        self._forget_all()

    def restart(self) -> None:
        """End the ranks and start as many new ones."""
        config = self.group.config if self.group else resolve(LaunchConfig(), probe())
        self._start(config)

    def _shape_in_use(self) -> LaunchConfig:
        """Return the defaults, with the shape of the ranks that are there."""
        if self.group is None:
            return LaunchConfig()
        return LaunchConfig(**{name: getattr(self.group.config, name) for name in SHAPE})

    def _fits(self, config: LaunchConfig) -> bool:
        if self.group is None:
            return False
        if not self.group.alive:
            _say("the ranks are gone: new ones are started, without the variables of the old")
            return False
        return all(getattr(self.group.config, n) == getattr(config, n) for n in SHAPE)

    def _start(self, config: LaunchConfig) -> None:
        if self.group is not None and self.group.busy:
            raise ConfigError("the ranks are busy with another cell: stop it or wait for it")
        self.shutdown()
        self.group = WorkerGroup(dataclasses.replace(config, timeout=None))

    def _replace_dead(self, group: WorkerGroup) -> None:
        replaced = group.make_ready()
        if replaced:
            self._capture.forget(replaced)
            self._sources.forget(replaced)
            _say(f"{name_ranks(replaced)} replaced: variables are lost there, kept elsewhere")

    def _forget_all(self) -> None:
        self._capture = Capture(self._shell.user_ns, self._shell.user_ns_hidden)
        self._sources = Sources()

    def _requests(
        self,
        cell: Cell,
        config: LaunchConfig,
        options: CellOptions,
        packs: Mapping[int, Packed | None],
    ) -> dict[int, Request]:
        known = {n: c for n, c in cells_so_far(self._shell).items() if n not in self._distributed}
        content = {
            "cell": {
                "code": cell.code,
                "source": cell.source,
                "name": cell.name,
                "number": cell.number,
            },
            "precision": config.precision,
            "result": options.out is not None,
            "pull": options.pull,
        }
        requests: dict[int, Request] = {}
        for rank, pack in packs.items():
            own = content | {"sources": self._sources.for_rank(rank, known)}
            requests[rank] = (own | pack.content, pack.buffers) if pack else (own, [])
        return requests

    def _bring_back(self, run: Run, options: CellOptions) -> None:
        if options.out is not None:
            self._shell.push({options.out: run.results()})
        for name in options.pull:
            self._shell.push({name: run.results(name)})
            self._capture.holds_already(name, run.ranks)


def _chosen(options: CellOptions, procs: int) -> tuple[int, ...]:
    every = tuple(range(procs))
    for rank in options.ranks or ():
        if rank not in every:
            raise ConfigError(f"ranks={rank}: there is no such rank; there are {name_ranks(every)}")
    return options.ranks or every


def _say(text: str) -> None:
    print(f"accelnb: {text}", file=sys.stderr)
