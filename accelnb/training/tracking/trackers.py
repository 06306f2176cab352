"""`Trackers`: the experiment trackers of an Accelerator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from accelnb.errors import AccelnbError
from accelnb.training.configuration import ProjectConfiguration
from accelnb.training.enums import LoggerType
from accelnb.training.state import PartialState
from accelnb.training.tracking.base import BlankTracker, GeneralTracker, plain
from accelnb.training.tracking.registry import Wanted, tracker_class, tracker_names


class Trackers:
    """The trackers that were chosen, and those that run.

    Attributes
    ----------
    log_with : list of str or GeneralTracker
        Those chosen.
    running : list of GeneralTracker
        On the main process, from `init` to `finish`.
    """

    def __init__(
        self, log_with: list[Wanted], project: ProjectConfiguration, process: PartialState
    ) -> None:
        self.log_with = log_with
        self.running: list[GeneralTracker] = []
        self.project = project
        self._process = process

    def init(
        self,
        project_name: str,
        config: dict[str, Any] | None,
        init_kwargs: dict[str, dict[str, Any]],
    ) -> None:
        """Start a run of each, on the main process."""
        self._check_names("init_kwargs", init_kwargs)
        if not self._process.is_main_process:
            return
        made = [self._made(one, project_name, init_kwargs) for one in self.log_with]
        self.finish()
        with ExitStack() as started:
            for tracker in made:
                tracker.start()
                started.callback(tracker.finish)
                if config is not None:
                    tracker.store_init_configuration(config)
            started.pop_all()
        self.running[:] = made

    def get(self, name: str, unwrap: bool) -> Any:
        """Return a tracker, or what does its work."""
        if self.log_with and name not in self._names:
            raise AccelnbError(f"get_tracker({name!r}): choose from {', '.join(self._names)}")
        if not self.log_with or not self._process.is_main_process:
            return BlankTracker()
        self._start_or_refuse("get_tracker()")
        found = next(tracker for tracker in self.running if tracker.name == name)
        return found.tracker if unwrap else found

    def log(
        self,
        values: Mapping[str, Any],
        step: int | None,
        log_kwargs: dict[str, dict[str, Any]] | None,
    ) -> None:
        """Log values to all."""
        if not self.log_with or not self._process.is_main_process:
            return
        if log_kwargs:
            self._check_names("log_kwargs", log_kwargs)
        numbers = plain(values)
        self._start_or_refuse("log()")
        for tracker in self.running:
            own = log_kwargs.get(tracker.name, {}) if log_kwargs else {}
            tracker.log(numbers, step=step, **own)

    @property
    def _names(self) -> list[str]:
        return [one.name if isinstance(one, GeneralTracker) else str(one) for one in self.log_with]

    def _check_names(self, argument: str, given: Iterable[str]) -> None:
        # Arguments for trackers that exist but are not used here are fine: scripts have them.
        known = dict.fromkeys([*tracker_names(), *self._names])
        unknown = [name for name in given if name not in known]
        if unknown:
            raise AccelnbError(
                f"{argument}: no tracker is called {unknown[0]!r}; choose from {', '.join(known)}"
            )

    def _made(self, one: Wanted, project_name: str, init_kwargs: dict[str, Any]) -> GeneralTracker:
        if isinstance(one, GeneralTracker):
            return one
        make: Any = tracker_class(one)
        folder = [self.project.logging_dir] * make.requires_logging_directory
        return make(project_name, *folder, **init_kwargs.get(one, {}))

    def _start_or_refuse(self, caller: str) -> None:
        if self.running:
            return
        if self._names != [LoggerType.NOTEBOOK]:
            raise AccelnbError(
                f"{caller} with log_with={', '.join(self._names)}: call "
                "accelerator.init_trackers(project_name) first"
            )
        self.init("notebook", None, {})

    def finish(self) -> None:
        """End the runs."""
        with ExitStack() as finished:  # each, also if another fails
            for tracker in reversed(self.running):
                finished.callback(tracker.finish)
            self.running.clear()
