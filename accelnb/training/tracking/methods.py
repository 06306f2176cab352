"""The part of `Accelerator` that logs to experiment trackers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from accelnb.errors import AccelnbError
from accelnb.training.configuration import ProjectConfiguration
from accelnb.training.enums import LoggerType
from accelnb.training.state import AcceleratorState
from accelnb.training.tracking.base import BlankTracker, GeneralTracker, plain
from accelnb.training.tracking.registry import (
    Wanted,
    filter_trackers,
    tracker_class,
    tracker_names,
)


class TrackingMethods:
    """Logging to trackers, which run on the main process only.

    Attributes
    ----------
    log_with : list of str or GeneralTracker
        The trackers that were chosen. In a ``%%distributed`` cell it is the notebook, unless
        ``log_with`` was given; that one works without `init_trackers`.
    trackers : list of GeneralTracker
        Those that run: on the main process, between `init_trackers` and `end_training`.
    """

    is_main_process: bool
    project_configuration: ProjectConfiguration
    state: AcceleratorState
    log_with: list[Wanted]
    trackers: list[GeneralTracker]

    def _choose_trackers(self, log_with: Wanted | Sequence[Wanted] | None) -> None:
        self.log_with = filter_trackers(log_with, self.project_configuration.logging_dir)
        self.trackers = []

    def init_trackers(
        self,
        project_name: str,
        config: dict[str, Any] | None = None,
        init_kwargs: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        """Start a run of each tracker. A second call ends the runs of the first.

        Parameters
        ----------
        project_name
            Of the project, under which trackers keep the run.
        config
            Hyperparameters to keep with it.
        init_kwargs
            For each tracker's name, keyword arguments of its class:
            ``{"wandb": {"mode": "offline"}}``.

        Raises
        ------
        AccelnbError
            `init_kwargs` names an unknown tracker. If a tracker does not start, its own error is
            raised and those before it are ended.

        Examples
        --------
        >>> import os, tempfile
        >>> from accelnb import Accelerator
        >>> folder = tempfile.mkdtemp()
        >>> accelerator = Accelerator(log_with="tensorboard", project_dir=folder)
        >>> accelerator.init_trackers("my project", config={"lr": 0.1})
        >>> accelerator.log({"loss": 0.5}, step=1)
        >>> accelerator.end_training()
        >>> os.listdir(folder)
        ['my project']
        """
        self._check_names("init_kwargs", init_kwargs or {})
        if not self.is_main_process:
            return
        made = [self._made(one, project_name, init_kwargs or {}) for one in self.log_with]
        self._finish_trackers()
        with ExitStack() as started:
            for tracker in made:
                tracker.start()
                started.callback(tracker.finish)
                if config is not None:
                    tracker.store_init_configuration(config)
            started.pop_all()
        self.trackers[:] = made

    def get_tracker(self, name: str, unwrap: bool = False) -> Any:
        """Return a tracker, or with `unwrap` what does its work (the run of wandb, say).

        On other ranks than 0, and without any ``log_with``, it is an object on which every call
        does nothing.

        Raises
        ------
        AccelnbError
            The name is none of ``log_with``, or `init_trackers` was not called.

        Examples
        --------
        >>> from accelnb import Accelerator
        >>> accelerator = Accelerator(log_with="notebook")
        >>> accelerator.get_tracker("notebook", unwrap=True).__name__
        'stream'
        """
        if self.log_with and name not in self._names:
            raise AccelnbError(f"get_tracker({name!r}): choose from {', '.join(self._names)}")
        if not self.log_with or not self.is_main_process:
            return BlankTracker()
        self._start_or_refuse("get_tracker()")
        found = next(tracker for tracker in self.trackers if tracker.name == name)
        return found.tracker if unwrap else found

    def log(
        self,
        values: Mapping[str, Any],
        step: int | None = None,
        log_kwargs: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        """Log values to all trackers. Without any it does nothing, as on ranks other than 0.

        Parameters
        ----------
        values
            Numbers, tensors of one element, strings or dicts by their name: what the trackers
            take of these.
        step
            Their place on the x axis.
        log_kwargs
            For each tracker's name, keyword arguments of its `log`.

        Raises
        ------
        AccelnbError
            `init_trackers` was not called, `values` is not a dict, or `log_kwargs` names an
            unknown tracker.

        Examples
        --------
        >>> from accelnb import Accelerator
        >>> accelerator = Accelerator()
        >>> accelerator.log({"loss": 0.5, "accuracy": 0.9}, step=1)
        """
        if not self.log_with or not self.is_main_process:
            return
        if log_kwargs:
            self._check_names("log_kwargs", log_kwargs)
        numbers = plain(values)
        self._start_or_refuse("log()")
        for tracker in self.trackers:
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
        folder = [self.project_configuration.logging_dir] * make.requires_logging_directory
        return make(project_name, *folder, **init_kwargs.get(one, {}))

    def _start_or_refuse(self, caller: str) -> None:
        if self.trackers:
            return
        if self._names != [LoggerType.NOTEBOOK]:
            raise AccelnbError(
                f"{caller} with log_with={', '.join(self._names)}: call "
                "accelerator.init_trackers(project_name) first"
            )
        self.init_trackers("notebook")

    def _finish_trackers(self) -> None:
        with ExitStack() as finished:  # each, also if another fails
            for tracker in reversed(self.trackers):
                finished.callback(tracker.finish)
            self.trackers.clear()
