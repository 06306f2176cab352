"""Trackers of packages that are imported only when their run starts."""

from __future__ import annotations

import importlib
from typing import Any

from accelnb.errors import AccelnbError
from accelnb.training.available import is_package_available
from accelnb.training.tracking.base import GeneralTracker


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
