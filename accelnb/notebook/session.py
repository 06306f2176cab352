"""The notebook's ranks: which group a cell runs on, and what it brings back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from accelnb.engine.early_start import start_group
from accelnb.engine.failure import RunInterrupted, name_ranks
from accelnb.engine.group import WorkerGroup
from accelnb.engine.launchers.choice import hardware_for, room_for
from accelnb.engine.run import RankResults, Run
from accelnb.engine.stall_report import Place
from accelnb.errors import AccelnbError
from accelnb.notebook.cell import Cell, empty_cell
from accelnb.notebook.defaults import Defaults
from accelnb.notebook.notices import ranks_of, say, saying_if_connecting, saying_if_slow
from accelnb.notebook.values.cell_requests import CellRequests
from accelnb.notebook.views.show_run import show_in_background, show_run
from accelnb.notebook.wanted_ranks import Asked, asked_by, shape_of
from accelnb.options.config import (
    SHAPE,
    CellOptions,
    ConfigError,
    LaunchConfig,
    from_mapping,
    resolve,
    sharing,
)

# A run that is being stopped is over by then, whatever its ranks do.
_STOPPED_AFTER = 5.0


class Session:
    """Everything accelnb keeps for one notebook.

    Parameters
    ----------
    shell
        The notebook's shell; cells take variables from its namespace and leave them there.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell
        self.settings = Defaults(shell)
        self.group: WorkerGroup | None = None
        self._asked: Asked | None = None  # what the ranks were asked to be
        self.requests = CellRequests(shell)
        self.last_run: Run | None = None
        self.arranged: LaunchConfig | None = None  # of the last cell on all ranks: their mesh

    def defaults(self) -> LaunchConfig:
        """Return the options of a cell that gives none.

        Raises
        ------
        ConfigError
            accelnb.yaml is wrong.
        """
        return self.settings.config()

    def use(self, config: LaunchConfig) -> None:
        """Make `config` the defaults of this session, before those of accelnb.yaml.

        What a cluster has is not asked: to reach it may take a while.

        Raises
        ------
        ConfigError
            This machine cannot do it; nothing was changed.
        """
        if config.cluster == "local":
            resolve(config, hardware_for(config))
        self.settings.chosen = config

    def run_cell(self, cell: Cell, given: Mapping[str, Any]) -> Run | None:
        """Run `cell` on the ranks with the options that its magic line gave.

        Returns
        -------
        run : Run or None
            A run that goes on, if ``--detach`` asked for it and ``--out`` did not name it.

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
        if options.detach and options.pull:
            raise ConfigError(
                "pull: a detached cell has nothing to bring back yet; "
                "use %accelnb pull when its run is done"
            )
        asked = self._asked_by(given)
        config = self._resolved(asked, given)
        ranks = _chosen(options.ranks, config.world_size)
        if options.ranks and config.mesh and "mesh" in given:
            raise ConfigError("mesh: is made by all ranks together; leave out --mesh or --ranks")
        self._refuse_if_busy()
        try:
            if options.fresh or not self._fits(config, given):
                self._start(config)
            self._asked = asked
            assert self.group is not None
            self._replace_dead(self.group)
            if options.ranks is None:
                self.arranged = config
            run = self.last_run = self.requests.run(self.group, cell, ranks, config, options)
        except KeyboardInterrupt:
            raise RunInterrupted("stopped before the cell began on the ranks") from None
        if options.detach:
            return self._detach(run, config, cell, options)
        self._follow(run, config, f"Cell In[{cell.number}]")
        self._bring_back(run, options)
        return None

    def pull(self, names: Sequence[str], ranks: tuple[int, ...] | None) -> dict[str, RankResults]:
        """Return the values that variables have on the ranks.

        Raises
        ------
        AccelnbError
            There are no ranks, they are busy, or a rank lacks a name; says which have it.
        """
        options = CellOptions(ranks=ranks, pull=tuple(names))
        run = self._run_on_idle(empty_cell(), options)
        _refuse_missing(run)
        return {name: run.results(name) for name in names}

    def push(self, names: Sequence[str], ranks: tuple[int, ...] | None) -> None:
        """Bind variables on the ranks to the values that they have in the notebook.

        Raises
        ------
        AccelnbError
            There are no ranks, they are busy, or the notebook has no such variable.
        CannotSend
            A value cannot be serialized.
        """
        for name in names:
            if name not in self.shell.user_ns:
                raise AccelnbError(f"there is no variable {name} in the notebook")
        self.requests.capture.send_again(names)
        self._run_on_idle(empty_cell(names), CellOptions(ranks=ranks))

    def interrupt(self) -> None:
        """Stop the run that goes on in the background, if there is one."""
        if self.last_run is not None:
            self.last_run.interrupt()

    def where(self) -> list[Place]:
        """Return where each rank is.

        Raises
        ------
        AccelnbError
            There are no ranks.
        """
        return self._living().where()

    def shutdown(self) -> None:
        """End the ranks; the next cell starts new ones."""
        if self.group is not None:
            self.group.shutdown()
        self.group = None
        self.requests.forget_all()

    def restart(self) -> None:
        """End the ranks and start as many new ones."""
        asked = self._asked_by({})
        self._start(self.group.config if self.group else self._resolved(asked, {}))
        self._asked = asked

    def _living(self) -> WorkerGroup:
        if self.group is None or not self.group.alive:
            raise AccelnbError("there are no ranks yet: the first %%distributed cell starts them")
        return self.group

    def _asked_by(self, given: Mapping[str, Any]) -> Asked:
        there = self.group.config if self.group else None
        return asked_by(given, self.defaults(), self._asked, there)

    def _resolved(self, asked: Asked, given: Mapping[str, Any]) -> LaunchConfig:
        try:
            with saying_if_connecting(asked.config):
                hardware = hardware_for(asked.config)
            return resolve(asked.config, hardware, names_device=asked.names_device)
        except ConfigError as error:
            raise self.settings.explain(error, given) from None

    def _fits(self, config: LaunchConfig, given: Mapping[str, Any]) -> bool:
        if self.group is None:
            return False
        if not self.group.alive:
            say("the ranks are gone: new ones are started, without the variables of the old")
            return False
        if shape_of(self.group.config) == shape_of(config):
            return True
        if not given.keys() & set(SHAPE):
            say("the defaults changed: new ranks are started, without the variables of the old")
        return False

    def _start(self, config: LaunchConfig) -> None:
        """Start ranks instead of those that are there, or say why not before these are ended."""
        config = dataclasses.replace(config, timeout=None)
        with room_for(config), saying_if_slow(f"starting {ranks_of(config)}"):
            if note := sharing(config, hardware_for(config)):
                say(note)
            before, self.group = self.group, None
            self.arranged = None
            self.requests.forget_all()
            if before is not None and before.restart(config):
                self.group = before
                return
            if before is not None:
                before.shutdown()
            self.group = start_group(config)

    def _replace_dead(self, group: WorkerGroup) -> None:
        replaced = group.make_ready()
        if replaced:
            self.requests.forget(replaced)
            elsewhere = ", kept elsewhere" if len(replaced) < len(group.ranks) else ""
            say(f"{name_ranks(replaced)} replaced: variables are lost there{elsewhere}")

    def _follow(self, run: Run, config: LaunchConfig, title: str) -> None:
        try:
            show_run(run, config, title)
        finally:
            self.requests.note_what_was_left()

    def _run_on_idle(self, cell: Cell, options: CellOptions) -> Run:
        """Run a short request of ours on the ranks that are there."""
        group = self._living()
        self._refuse_if_busy()
        self._replace_dead(group)
        ranks = _chosen(options.ranks, len(group.ranks))
        run = self.last_run = self.requests.run(group, cell, ranks, group.config, options)
        self._follow(run, dataclasses.replace(group.config, logs="merged"), "")
        return run

    def _detach(
        self, run: Run, config: LaunchConfig, cell: Cell, options: CellOptions
    ) -> Run | None:
        show_in_background(run, config, f"Cell In[{cell.number}]")
        if options.out is None:
            return run
        self.shell.push({options.out: run})
        return None

    def _refuse_if_busy(self) -> None:
        if self.last_run is not None and self.last_run.stopping:
            self.last_run.wait(_STOPPED_AFTER)
        if self.group is not None and self.group.busy and self.last_run is not None:
            raise AccelnbError(
                f"the ranks are busy for {self.last_run.seconds:.0f} s with an earlier cell: wait "
                "for it (accelnb.last_run().wait()) or stop it (%accelnb interrupt)"
            )

    def _bring_back(self, run: Run, options: CellOptions) -> None:
        if options.out is not None:
            self.shell.push({options.out: run.results()})
        for name in options.pull:
            if name not in run.missing:
                self.shell.push({name: run.results(name)})
                self.requests.capture.holds_already(name, run.ranks)
        _refuse_missing(run)


def _refuse_missing(run: Run) -> None:
    for name, lacking in run.missing.items():
        have = [rank for rank in run.ranks if rank not in lacking]
        said = f"{name_ranks(have)} have it" if have else "no rank has it"
        said = said.replace("have", "has") if len(have) == 1 else said
        raise AccelnbError(f"there is no variable {name} on {name_ranks(lacking)}; {said}")


def _chosen(asked: tuple[int, ...] | None, procs: int) -> tuple[int, ...]:
    every = tuple(range(procs))
    for rank in asked or ():
        if rank not in every:
            raise ConfigError(f"ranks={rank}: there is no such rank; there are {name_ranks(every)}")
    return asked or every
