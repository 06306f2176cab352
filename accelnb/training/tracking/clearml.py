"""ClearML."""

from __future__ import annotations

import os
from typing import Any

from accelnb.errors import AccelnbError
from accelnb.training.tracking.base import of_kinds, on_main_process
from accelnb.training.tracking.package import PackageTracker, load


class ClearMLTracker(PackageTracker):
    """Logs to ClearML: to the task that the program has made, else to one of its own.

    Names that begin with ``eval_``, ``test_`` or ``train_`` are curves of that name in one plot;
    others are in ``train``.

    Parameters
    ----------
    run_name
        Of the project and the task. The variables ``CLEARML_PROJECT`` and ``CLEARML_TASK`` come
        first.
    **kwargs
        Of ``clearml.Task.init``.
    """

    name = "clearml"
    requires_logging_directory = False

    task: Any  # from start() on

    def __init__(self, run_name: str | None = None, **kwargs: Any) -> None:
        super().__init__(run_name or "accelnb", **kwargs)
        self._is_own_task = False

    @on_main_process
    def start(self) -> None:
        tasks = load("clearml").Task
        current = tasks.current_task()
        self._is_own_task = current is None
        names = {
            "project_name": os.environ.get("CLEARML_PROJECT", self.run_name),
            "task_name": os.environ.get("CLEARML_TASK", self.run_name),
        }
        self.task = current or tasks.init(**{**names, **self.init_kwargs})

    @property
    def tracker(self) -> Any:
        return self.task

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.task.connect_configuration(values)

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log numbers: with a step as points of curves, without as single values.

        `kwargs` are those of ``report_scalar`` or ``report_single_value``.
        """
        reports = self.task.get_logger()
        for name, value in of_kinds(self.name, values, int, float).items():
            if step is None:
                reports.report_single_value(name=name, value=value, **kwargs)
            else:
                reports.report_scalar(**_place(name), value=value, iteration=step, **kwargs)

    @on_main_process
    def log_images(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log for each name an array or PIL image; `kwargs` are those of ``report_image``."""
        for name, image in values.items():
            place = _place(name)
            self.task.get_logger().report_image(**place, iteration=step, image=image, **kwargs)

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
        """Log a table: rows (the first is the heading without `columns`) or a ``DataFrame``.

        Raises
        ------
        AccelnbError
            Neither `data` nor `dataframe` is given.
        """
        if dataframe is None and data is None:
            raise AccelnbError(f"log_table({table_name!r}): pass data or dataframe")
        rows = [columns, *(data or [])] if columns else data
        table = rows if dataframe is None else dataframe
        place = _place(table_name)
        self.task.get_logger().report_table(**place, table_plot=table, iteration=step, **kwargs)

    @on_main_process
    def finish(self) -> None:
        """Close the task, unless the program made it."""
        if self._is_own_task:
            self.task.close()


def _place(name: str) -> dict[str, str]:
    series, _, title = name.partition("_")
    if title and series in ("eval", "test", "train"):
        return {"title": title, "series": series}
    return {"title": name, "series": "train"}
