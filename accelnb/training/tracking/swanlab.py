"""SwanLab."""

from __future__ import annotations

from typing import Any

from accelnb.training.tracking.base import on_main_process, plain, warn_dropped
from accelnb.training.tracking.package import PackageTracker, load


class SwanLabTracker(PackageTracker):
    """Logs to SwanLab; with ``mode="offline"`` into a local folder.

    Parameters
    ----------
    run_name
        The project's name.
    **kwargs
        Of ``swanlab.init``.
    """

    name = "swanlab"
    requires_logging_directory = False
    main_process_only = False

    run: Any  # from start() on

    @on_main_process
    def start(self) -> None:
        self.run = load("swanlab").init(**{"project": self.run_name, **self.init_kwargs})

    @property
    def tracker(self) -> Any:
        return self.run

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.run.config.update(plain(values))

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log whatever SwanLab takes; strings are left out. `kwargs` are those of ``Run.log``."""
        taken = {}
        for name, value in plain(values).items():
            if isinstance(value, str):
                warn_dropped(self.name, name, value)
            else:
                taken[name] = value
        self.run.log(taken, step=step, **kwargs)

    @on_main_process
    def log_images(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log for each name a list of arrays or PIL images."""
        image = load("swanlab").Image
        for name, images in values.items():
            self.log({name: [image(one) for one in images]}, step=step, **kwargs)

    @on_main_process
    def finish(self) -> None:
        self.run.finish()
