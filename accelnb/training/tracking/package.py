"""Trackers of packages that are imported only when their run starts."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from accelnb.errors import AccelnbError
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


def is_installed(package: str) -> bool:
    """Return whether the package can be imported.

    A folder of this name in the working directory is not it: trackers make such folders.
    """
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def require(package: str) -> None:
    """Raise an AccelnbError if the tracker's package is not installed."""
    if not is_installed(package):
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
