"""Comet."""

from __future__ import annotations

from typing import Any

from accelnb.training.tracking.base import of_kinds, on_main_process
from accelnb.training.tracking.package import PackageTracker, load


class CometMLTracker(PackageTracker):
    """Logs to Comet; with ``online=False`` into a local archive.

    Parameters
    ----------
    run_name
        The project's name.
    **kwargs
        Of ``comet_ml.start``.
    """

    name = "comet_ml"
    requires_logging_directory = False

    writer: Any  # from start() on

    @on_main_process
    def start(self) -> None:
        self.writer = load("comet_ml").start(**{"project_name": self.run_name, **self.init_kwargs})

    @property
    def tracker(self) -> Any:
        return self.writer

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.writer.log_parameters(values)

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log numbers and dicts of numbers as metrics, strings beside them.

        `kwargs` are those of ``log_metric``, ``log_metrics`` or ``log_other``.
        """
        if step is not None:
            self.writer.set_step(step)
        for name, value in of_kinds(self.name, values, int, float, str, dict).items():
            if isinstance(value, int | float):
                self.writer.log_metric(name, value, step=step, **kwargs)
            elif isinstance(value, str):
                self.writer.log_other(name, value, **kwargs)
            else:
                self.writer.log_metrics(value, step=step, **kwargs)

    @on_main_process
    def finish(self) -> None:
        self.writer.end()
