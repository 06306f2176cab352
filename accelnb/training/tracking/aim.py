"""Aim: a repository of runs in the logging folder."""

from __future__ import annotations

import os
from typing import Any

from accelnb.training.tracking.base import on_main_process, plain, warn_dropped
from accelnb.training.tracking.package import PackageTracker, load


class AimTracker(PackageTracker):
    """Writes to an Aim repository.

    Parameters
    ----------
    run_name
        The run's name.
    logging_dir
        Where the repository is, or is made.
    **kwargs
        Of ``aim.Run``.
    """

    name = "aim"
    requires_logging_directory = True

    writer: Any  # from start() on

    def __init__(
        self, run_name: str, logging_dir: str | os.PathLike[str] = ".", **kwargs: Any
    ) -> None:
        super().__init__(run_name, **kwargs)
        self.aim_repo_path = os.fspath(logging_dir)

    @on_main_process
    def start(self) -> None:
        self.writer = load("aim").Run(**{"repo": self.aim_repo_path, **self.init_kwargs})
        self.writer.name = self.run_name

    @property
    def tracker(self) -> Any:
        return self.writer

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.writer["hparams"] = plain(values)

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log numbers and objects of Aim; `kwargs` are those of ``Run.track``."""
        for name, value in plain(values).items():
            if value is None or isinstance(value, str):
                warn_dropped(self.name, name, value)
            else:
                self.writer.track(value, name=name, step=step, **kwargs)

    @on_main_process
    def log_images(
        self,
        values: dict[str, Any],
        step: int | None = None,
        kwargs: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        """Log for each name an array or PIL image, or a pair of it and its caption.

        Parameters
        ----------
        kwargs
            Arguments of ``aim.Image`` under ``aim_image``, of ``Run.track`` under ``track``.
        """
        of_image, of_track = ((kwargs or {}).get(part, {}) for part in ("aim_image", "track"))
        for name, value in values.items():
            image, caption = value if isinstance(value, tuple) else (value, "")
            made = load("aim").Image(image, caption=caption, **of_image)
            self.writer.track(made, name=name, step=step, **of_track)

    @on_main_process
    def finish(self) -> None:
        self.writer.close()
