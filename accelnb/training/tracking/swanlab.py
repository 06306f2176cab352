"""SwanLab."""

from __future__ import annotations

from typing import Any

from accelnb.training.tracking.base import on_main_process, plain, warn_dropped
from accelnb.training.tracking.package import ImageRunTracker


class SwanLabTracker(ImageRunTracker):
    """Logs to SwanLab; with ``mode="offline"`` into a local folder.

    Parameters
    ----------
    run_name
        The project's name.
    **kwargs
        Of ``swanlab.init``.
    """

    name = package = "swanlab"

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
