"""Weights & Biases."""

from __future__ import annotations

from typing import Any

from accelnb.training.tracking.base import on_main_process, plain
from accelnb.training.tracking.package import PackageTracker, load


class WandBTracker(PackageTracker):
    """Logs to Weights & Biases; with ``mode="offline"`` into a local folder.

    Parameters
    ----------
    run_name
        The project's name.
    **kwargs
        Of ``wandb.init``.
    """

    name = "wandb"
    requires_logging_directory = False
    main_process_only = False

    run: Any  # from start() on

    @on_main_process
    def start(self) -> None:
        self.run = load("wandb").init(**{"project": self.run_name, **self.init_kwargs})

    @property
    def tracker(self) -> Any:
        return self.run

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.run.config.update(values, allow_val_change=True)

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log whatever wandb takes; `kwargs` are those of ``Run.log``."""
        self.run.log(plain(values), step=step, **kwargs)

    @on_main_process
    def log_images(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log for each name a list of arrays or PIL images."""
        image = load("wandb").Image
        for name, images in values.items():
            self.log({name: [image(one) for one in images]}, step=step, **kwargs)

    @on_main_process
    def log_table(
        self,
        table_name: str,
        columns: list[str] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Log a table: names of columns and rows, or a pandas ``DataFrame``."""
        table = load("wandb").Table(columns=columns, data=data, dataframe=dataframe)
        self.log({table_name: table}, step=step, **kwargs)

    @on_main_process
    def finish(self) -> None:
        self.run.finish()
