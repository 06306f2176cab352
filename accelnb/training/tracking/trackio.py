"""Trackio: local first, with a dashboard of its own."""

from __future__ import annotations

from typing import Any

from accelnb.training.tracking.base import on_main_process, plain
from accelnb.training.tracking.package import PackageTracker, load


class TrackioTracker(PackageTracker):
    """Logs to Trackio, which keeps a database per project in ``TRACKIO_DIR``.

    Parameters
    ----------
    run_name
        The project's name.
    **kwargs
        Of ``trackio.init``.
    """

    name = "trackio"
    requires_logging_directory = False
    main_process_only = False

    run: Any  # from start() on

    @on_main_process
    def start(self) -> None:
        self.run = load("trackio").init(**{"project": self.run_name, **self.init_kwargs})

    @property
    def tracker(self) -> Any:
        return self.run

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.run.config.update(plain(values))  # a dict, which goes out with the first values

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log whatever Trackio takes; `kwargs` are those of its ``Run.log``."""
        self.run.log(plain(values), step=step, **kwargs)

    @on_main_process
    def finish(self) -> None:
        self.run.finish()
