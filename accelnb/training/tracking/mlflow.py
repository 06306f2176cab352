"""MLflow."""

from __future__ import annotations

import json
import os
from typing import Any

from accelnb.errors import AccelnbError
from accelnb.options import environment
from accelnb.training.tracking.base import (
    GeneralTracker,
    logger,
    of_kinds,
    on_main_process,
    plain,
)
from accelnb.training.tracking.package import load


class MLflowTracker(GeneralTracker):
    """Logs to the tracking store of MLflow: a local one, or that of ``MLFLOW_TRACKING_URI``.

    Parameters
    ----------
    experiment_name
        The project's name. The variable ``MLFLOW_EXPERIMENT_NAME`` comes first.
    logging_dir
        Where a new experiment keeps its artifacts; by default the store says.
    run_id
        A run to go on with (first ``MLFLOW_RUN_ID``).
    tags
        Of the run and of a new experiment, as a dict or JSON (first ``MLFLOW_TAGS``).
    nested_run
        Whether the run is part of the active one (first ``MLFLOW_NESTED_RUN``).
    run_name, description
        Of the run.

    Raises
    ------
    AccelnbError
        `tags` is not JSON of an object.
    """

    name = "mlflow"
    requires_logging_directory = False

    active_run: Any  # from start() on

    def __init__(
        self,
        experiment_name: str | None = None,
        logging_dir: str | os.PathLike[str] | None = None,
        run_id: str | None = None,
        tags: dict[str, Any] | str | None = None,
        nested_run: bool = False,
        run_name: str | None = None,
        description: str | None = None,
    ) -> None:
        super().__init__()
        said = os.environ.get
        self.experiment_name = said("MLFLOW_EXPERIMENT_NAME") or experiment_name or "Default"
        self.logging_dir = logging_dir if logging_dir is None else os.fspath(logging_dir)
        self.run_id = said("MLFLOW_RUN_ID") or run_id
        self.tags = _tags(said("MLFLOW_TAGS") or tags)
        self.nested_run = environment.flag("MLFLOW_NESTED_RUN", default=nested_run)
        self.run_name = run_name
        self.description = description

    @on_main_process
    def start(self) -> None:
        mlflow = load("mlflow")
        experiment = mlflow.get_experiment_by_name(self.experiment_name)
        if experiment is not None:
            experiment_id = experiment.experiment_id
        else:
            experiment_id = mlflow.create_experiment(
                self.experiment_name, artifact_location=self.logging_dir, tags=self.tags
            )
        self.active_run = mlflow.start_run(
            run_id=self.run_id,
            experiment_id=experiment_id,
            run_name=self.run_name,
            nested=self.nested_run,
            tags=self.tags,
            description=self.description,
        )

    @property
    def tracker(self) -> Any:
        return self.active_run

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Log parameters. Those with too long a text are left out, with a warning."""
        limits = load("mlflow", "mlflow.utils.validation")
        longest, most = limits.MAX_PARAM_VAL_LENGTH, limits.MAX_PARAMS_TAGS_PER_BATCH
        kept = []
        for name, value in plain(values).items():
            if len(str(value)) <= longest:
                kept.append((name, value))
            else:
                logger.warning_once(
                    f"mlflow takes no parameter of more than {longest} characters: {name!r} is "
                    "left out"
                )
        for start in range(0, len(kept), most):
            load("mlflow").log_params(dict(kept[start : start + most]))

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log numbers; `kwargs` are those of ``mlflow.log_metrics``."""
        load("mlflow").log_metrics(of_kinds(self.name, values, int, float), step=step, **kwargs)

    @on_main_process
    def log_figure(self, figure: Any, artifact_file: str, **save_kwargs: Any) -> None:
        """Log a figure of matplotlib or plotly as a file of the run."""
        load("mlflow").log_figure(figure, artifact_file, **save_kwargs)

    @on_main_process
    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Log all files of a folder."""
        load("mlflow").log_artifacts(local_dir, artifact_path=artifact_path)

    @on_main_process
    def log_artifact(self, local_path: str, artifact_path: str | None = None) -> None:
        """Log a file."""
        load("mlflow").log_artifact(local_path, artifact_path=artifact_path)

    @on_main_process
    def finish(self) -> None:
        load("mlflow").end_run()


def _tags(given: dict[str, Any] | str | None) -> dict[str, str] | None:
    tags = given
    if isinstance(given, str):
        try:
            tags = json.loads(given)
        except json.JSONDecodeError:
            tags = given
    if tags is None:
        return None
    if not isinstance(tags, dict):
        raise AccelnbError(f'tags={given} of mlflow: write them as JSON, {{"name": "value"}}')
    return {name: str(value) for name, value in tags.items()}  # mlflow takes no others
