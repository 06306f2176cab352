"""TensorBoard: event files in the logging folder."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from accelnb.training.tracking.base import of_kinds, on_main_process, plain
from accelnb.training.tracking.package import PackageTracker, load

_HPARAM = (bool, int, float, str, type(None))


class TensorBoardTracker(PackageTracker):
    """Writes event files for TensorBoard into ``logging_dir/run_name``.

    Parameters
    ----------
    run_name
        The project's name.
    logging_dir
        Where its folder is made.
    **kwargs
        Of ``torch.utils.tensorboard.SummaryWriter``.
    """

    name = "tensorboard"
    requires_logging_directory = True

    writer: Any  # from start() on

    def __init__(self, run_name: str, logging_dir: str | os.PathLike[str], **kwargs: Any) -> None:
        super().__init__(run_name, **kwargs)
        self.logging_dir = os.path.join(logging_dir, run_name)

    @on_main_process
    def start(self) -> None:
        module = load("tensorboard", "torch.utils.tensorboard")
        self.writer = module.SummaryWriter(self.logging_dir, **self.init_kwargs)

    @property
    def tracker(self) -> Any:
        return self.writer

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Store hyperparameters in TensorBoard, others than numbers and strings as their text.

        They are also written to ``<seconds>/hparams.yml``.
        """
        known = {
            name: value if isinstance(value, _HPARAM) else str(value)
            for name, value in plain(values).items()
        }
        self.writer.add_hparams(known, metric_dict={})
        self.writer.flush()
        folder = Path(self.logging_dir, str(time.time()))
        folder.mkdir()
        lines = [f"{json.dumps(name)}: {_yaml(value)}\n" for name, value in known.items()]
        (folder / "hparams.yml").write_text("".join(lines), encoding="utf-8")

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log numbers as scalars, strings as text, and dicts of numbers as several curves.

        `kwargs` are those of ``add_scalar``, ``add_text`` or ``add_scalars``.
        """
        for name, value in of_kinds(self.name, values, int, float, str, dict).items():
            if isinstance(value, int | float):
                self.writer.add_scalar(name, value, global_step=step, **kwargs)
            elif isinstance(value, str):
                self.writer.add_text(name, value, global_step=step, **kwargs)
            else:
                self.writer.add_scalars(name, value, global_step=step, **kwargs)
        self.writer.flush()

    @on_main_process
    def log_images(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log for each name a batch of images, N × C × H × W unless `kwargs` of ``add_images``
        give other ``dataformats``.
        """
        for name, images in values.items():
            self.writer.add_images(name, images, global_step=step, **kwargs)

    @on_main_process
    def finish(self) -> None:
        self.writer.close()


def _yaml(value: Any) -> str:
    if not isinstance(value, float):
        return json.dumps(value)
    text = repr(value)
    if text.lstrip("-") in ("nan", "inf"):
        return text.replace("nan", ".nan").replace("inf", ".inf")
    # Without a point YAML 1.1 reads 1e-05 as a string.
    return text if "." in text else text.replace("e", ".0e")
