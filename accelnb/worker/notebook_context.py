"""What a rank takes from the notebook's process: folder, path, environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from accelnb.devices.hardware.usable_resources import usable_cpus
from accelnb.engine.process.rank_environment import is_of_launcher, own_variables
from accelnb.options import environment
from accelnb.options.environment import working_folder

_INTERFACE = "GLOO_SOCKET_IFNAME"


class NotebookContext:
    """Keeps this process's folder, path and environment as the notebook's are.

    On another machine they are followed as far as that can be: a folder or an entry of the path
    only where there is one of that name, and of the environment what the notebook itself set.
    The variables that say which rank this is stay its own everywhere.

    Parameters
    ----------
    spec
        Of the rank.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self._same_machine: bool = spec["same_machine"]
        self._own_path = list(sys.path)
        self._private: str = spec["folder"]
        own = own_variables(spec)
        self._told = own.keys() - {environment.DEVICE, environment.USE_CPU}  # if they are not heard
        self._own = own | spec["launch_env"] | {"ACCELNB_RANK": f"{os.getpid()}:{spec['rank']}"}
        self._said: set[str] = set()
        self._threads = max(1, usable_cpus() // spec["local_world_size"])
        if not self._same_machine:
            self._threads = environment.threads() or self._threads  # what the cluster says
        self._interface: str | None = spec["interface"]
        self._begin(spec["context"])
        os.environ.update(self._own)

    def _begin(self, context: dict[str, Any]) -> None:
        """Take over the notebook's whole context."""
        if self._same_machine:
            for name in os.environ.keys() - context["env"].keys():
                del os.environ[name]  # of the fork server, which started with an older environment
            for name in filter(is_of_launcher, list(os.environ)):
                del os.environ[name]
        self._say_own(context["env"])
        with_default = (environment.THREADS, _INTERFACE)
        given = {name: os.environ.get(name) for name in with_default} | context["env"]
        self._follow_where(context)
        self._follow_environment(given)

    def follow(self, changes: dict[str, Any]) -> None:
        """Take over what changed; a variable that is None is taken out of the environment."""
        if changes:
            self._follow_where(changes)
            env = changes.get("env", {})
            self._say_own(env)
            self._follow_environment(env)

    def _follow_where(self, changes: Mapping[str, Any]) -> None:
        if "cwd" in changes:
            self._enter(changes["cwd"])
        if "path" in changes:
            sys.path[:] = self._path(changes["path"])

    def _enter(self, folder: str | None) -> None:
        if folder is None and self._same_machine:
            if working_folder() is None:  # libraries look it up, IPython when the rank ends
                os.chdir(self._private)
            here = working_folder()
            ends = ", which is removed with the ranks" if here == self._private else ""
            _say(f"the notebook's folder was removed: this rank works in {here}{ends}")
        if folder is None or (not self._same_machine and not Path(folder).is_dir()):
            return
        try:
            os.chdir(folder)
        except OSError as error:
            _say(f"the notebook's folder cannot be entered, this rank stays where it is: {error}")

    def _path(self, of_notebook: list[str]) -> list[str]:
        if self._same_machine:
            return of_notebook
        there = [entry for entry in of_notebook if not entry or Path(entry).exists()]
        return [*there, *(entry for entry in self._own_path if entry not in there)]

    def _follow_environment(self, changes: Mapping[str, str | None]) -> None:
        for name, value in changes.items():
            if name in self._own or is_of_launcher(name):
                continue
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if _INTERFACE in changes and self._interface:
            os.environ.setdefault(_INTERFACE, self._interface)
        if environment.THREADS in changes:
            self._set_threads()

    def _set_threads(self) -> None:
        """Compute with as many threads as the notebook says, with a share of the cores if not."""
        threads = environment.threads()
        if threads is None:
            if said := environment.wrong_threads():
                _say(f"{said}: this rank computes with {self._threads}")
            threads = self._threads
            os.environ[environment.THREADS] = str(threads)
        torch.set_num_threads(threads)

    def _say_own(self, names: Iterable[str]) -> None:
        new = sorted(self._told.intersection(names) - self._said)
        self._said.update(new)
        if new:
            _say(f"{', '.join(new)} of the notebook: not taken over, for each rank has its own")


def _say(text: str) -> None:
    print(f"accelnb: {text}", file=sys.stderr, flush=True)
