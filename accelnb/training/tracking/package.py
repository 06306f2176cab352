"""Trackers of packages that are imported only when their run starts."""

from __future__ import annotations

import importlib
from typing import Any

from accelnb.errors import AccelnbError
from accelnb.training.available import is_package_available
from accelnb.training.tracking.base import GeneralTracker, on_main_process, plain


class PackageTracker(GeneralTracker):
    """The base of trackers that a package does which has the tracker's name.

    Parameters
    ----------
    run_name
        The project's name.
    **kwargs
        Of what starts a run in the package.
    """

    def __init__(self, run_name: str, **kwargs: Any) -> None:
        super().__init__()
        self.run_name = run_name
        self.init_kwargs = kwargs


class RunTracker(PackageTracker):
    """The base of trackers whose package has an ``init`` that returns a run, as wandb's."""

    requires_logging_directory = False
    main_process_only = False

    package: str
    run: Any  # from start() on

    @on_main_process
    def start(self) -> None:
        self.run = load(self.package).init(**{"project": self.run_name, **self.init_kwargs})

    @property
    def tracker(self) -> Any:
        return self.run

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.run.config.update(plain(values))

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log whatever the package takes; `kwargs` are those of its ``Run.log``."""
        self.run.log(plain(values), step=step, **kwargs)

    @on_main_process
    def finish(self) -> None:
        self.run.finish()


class ImageRunTracker(RunTracker):
    """The base of those whose package also has an ``Image``."""

    @on_main_process
    def log_images(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log for each name a list of arrays or PIL images."""
        image = load(self.package).Image
        for name, images in values.items():
            self.log({name: [image(one) for one in images]}, step=step, **kwargs)


def require(package: str) -> None:
    """Raise an AccelnbError if the tracker's package is not installed."""
    if not is_package_available(package):
        raise AccelnbError(
            f"log_with={package}: the package is not installed: pip install {package}, or leave "
            "it out of log_with"
        )


def load(package: str, module: str | None = None) -> Any:
    """Import a tracker's package; return it, or `module` that needs it.

    Raises
    ------
    AccelnbError
        It is not installed.
    """
    require(package)
    return importlib.import_module(module or package)
