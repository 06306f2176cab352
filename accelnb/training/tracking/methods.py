"""`TrackingMethods`: what the Accelerator offers to log to experiment trackers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accelnb.training.tracking.base import GeneralTracker
from accelnb.training.tracking.registry import Wanted
from accelnb.training.tracking.trackers import Trackers


class TrackingMethods:
    """Logging to trackers, which run on the main process only."""

    def __init__(self, trackers: Trackers) -> None:
        self._trackers = trackers

    @property
    def log_with(self) -> list[Wanted]:
        """The trackers that were chosen.

        In a ``%%distributed`` cell it is the notebook, unless ``log_with`` was given; that one
        works without `init_trackers`.
        """
        return self._trackers.log_with

    @log_with.setter
    def log_with(self, chosen: list[Wanted]) -> None:
        self._trackers.log_with = chosen

    @property
    def trackers(self) -> list[GeneralTracker]:
        """Those that run: on the main process, between `init_trackers` and `end_training`."""
        return self._trackers.running

    @trackers.setter
    def trackers(self, running: list[GeneralTracker]) -> None:
        self._trackers.running = running

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
        self._trackers.init(project_name, config, init_kwargs or {})

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
        return self._trackers.get(name, unwrap)

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
        self._trackers.log(values, step, log_kwargs)
