"""The notebook as a tracker: what is logged shows under the cell while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy
import torch

from accelnb.training.streaming import stream
from accelnb.training.tracking.base import GeneralTracker, on_main_process, plain

_STREAMED = (int, float, torch.Tensor, numpy.ndarray)


class NotebookTracker(GeneralTracker):
    """Sends values to the notebook by `accelnb.stream`: they are in ``run.metrics["loss"]``.

    The default in a ``%%distributed`` cell. Elsewhere, as in an exported script, it does
    nothing. Values of a dict are called ``name/key``. Strings are left out: a cell prints them.

    Attributes
    ----------
    config : dict
        What `init_trackers` was given as configuration.

    Examples
    --------
    >>> from accelnb import Accelerator
    >>> accelerator = Accelerator(log_with="notebook")
    >>> accelerator.log({"loss": 0.5}, step=1)
    """

    name = "notebook"
    requires_logging_directory = False

    def __init__(self, run_name: str = "notebook") -> None:
        super().__init__()
        self.run_name = run_name
        self.config: dict[str, Any] = {}

    @property
    def tracker(self) -> Any:
        return stream

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = dict(values)

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Stream numbers, tensors and arrays; `kwargs` are those of `accelnb.stream`."""
        for name, value in _flat(plain(values)):
            if isinstance(value, _STREAMED):
                stream(name, value, step, **kwargs)

    @on_main_process
    def log_images(self, values: dict[str, Any], step: int | None = None) -> None:
        """Show images: an array, tensor or PIL image for each name, or a list or batch of them.

        Several of one name are called ``name/0``, ``name/1`` and so on.
        """
        for name, value in values.items():
            if isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 4:
                self.log_images({f"{name}/{i}": image for i, image in enumerate(value)}, step)
            else:
                image = value if isinstance(value, torch.Tensor) else numpy.asarray(value)
                stream(name, image, step, kind="image")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value
