"""Weights & Biases."""

from __future__ import annotations

from typing import Any

from accelnb.training.tracking.base import on_main_process
from accelnb.training.tracking.package import ImageRunTracker, load


class WandBTracker(ImageRunTracker):
    """Logs to Weights & Biases; with ``mode="offline"`` into a local folder.

    Parameters
    ----------
    run_name
        The project's name.
    **kwargs
        Of ``wandb.init``.
    """

    name = package = "wandb"

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.run.config.update(values, allow_val_change=True)

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
