"""Trackers by name: those that are built in, and those a user registers."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Sequence
from typing import Any

from accelnb.errors import AccelnbError
from accelnb.training import streaming
from accelnb.training.available import is_package_available
from accelnb.training.enums import LoggerType
from accelnb.training.tracking.base import GeneralTracker
from accelnb.training.tracking.package import require

# In the module of the tracker's name, which is imported when it is asked for.
BUILT_IN = {
    LoggerType.AIM: "AimTracker",
    LoggerType.CLEARML: "ClearMLTracker",
    LoggerType.COMETML: "CometMLTracker",
    LoggerType.DVCLIVE: "DVCLiveTracker",
    LoggerType.MLFLOW: "MLflowTracker",
    LoggerType.NOTEBOOK: "NotebookTracker",
    LoggerType.SWANLAB: "SwanLabTracker",
    LoggerType.TENSORBOARD: "TensorBoardTracker",
    LoggerType.TRACKIO: "TrackioTracker",
    LoggerType.WANDB: "WandBTracker",
}

_registered: dict[str, type[GeneralTracker]] = {}

Wanted = str | LoggerType | GeneralTracker


def register_tracker_class(tracker_class: type[GeneralTracker]) -> None:
    """Make a tracker class of your own known by its name, for ``Accelerator(log_with=name)``.

    Its first argument is the project's name; if it requires a logging directory, that is the
    second. Keyword arguments come from ``init_trackers(init_kwargs={name: {...}})``.

    Raises
    ------
    AccelnbError
        It does not derive from `GeneralTracker`, or lacks `name` or
        `requires_logging_directory`.

    Examples
    --------
    >>> from accelnb import Accelerator
    >>> from accelnb.training.tracking import GeneralTracker, register_tracker_class
    >>> class Memory(GeneralTracker):
    ...     name = "memory"
    ...     requires_logging_directory = False
    ...     tracker = None
    ...
    ...     def __init__(self, project):
    ...         super().__init__()
    ...         self.project = project
    >>> register_tracker_class(Memory)
    >>> accelerator = Accelerator(log_with="memory")
    >>> accelerator.init_trackers("my project")
    >>> accelerator.get_tracker("memory").project
    'my project'
    """
    if not (isinstance(tracker_class, type) and issubclass(tracker_class, GeneralTracker)):
        raise AccelnbError(f"{tracker_class!r} cannot be registered: derive it from GeneralTracker")
    for attribute in ("name", "requires_logging_directory"):
        if getattr(tracker_class, attribute, "") == "":
            raise AccelnbError(f"class {tracker_class.__name__}: define {attribute} in it")
    name = tracker_class.name
    if name in tracker_names() and _registered.get(name) is not tracker_class:
        warnings.warn(
            f"{tracker_class.__name__} takes the place of the tracker {name!r} that was known",
            stacklevel=2,
        )
    _registered[name] = tracker_class


def tracker_names() -> list[str]:
    """Return the names of all trackers, installed or not."""
    return [*BUILT_IN, *(name for name in _registered if name not in BUILT_IN)]


def tracker_class(name: str) -> type[GeneralTracker]:
    """Return the class of a tracker that `tracker_names` has."""
    return _registered[name] if name in _registered else built_in_class(LoggerType(name))


def built_in_class(name: LoggerType) -> type[GeneralTracker]:
    """Return the class of a built-in tracker, also if a registered one took its place."""
    module = importlib.import_module(f"accelnb.training.tracking.{name}")
    return getattr(module, BUILT_IN[name])


def get_available_trackers() -> list[LoggerType]:
    """Return what ``log_with="all"`` stands for: the built-in trackers that can be used here."""
    return [name for name in BUILT_IN if _is_available(name)]


def filter_trackers(
    log_with: Wanted | Sequence[Wanted] | None,
    logging_dir: str | os.PathLike[str] | None = None,
) -> list[Wanted]:
    """Return the trackers that `log_with` means, each once: names and instances.

    Parameters
    ----------
    log_with
        A name, a tracker, or several. ``all`` means all that are installed. Without any it is
        the notebook where there is one, else none.
    logging_dir
        For those that write files.

    Raises
    ------
    AccelnbError
        A name is unknown, its package is not installed, or it needs a logging folder.

    Examples
    --------
    >>> from accelnb.training.tracking import filter_trackers
    >>> filter_trackers(["notebook", "notebook"])
    [<LoggerType.NOTEBOOK: 'notebook'>]
    """
    if log_with is None:
        return [LoggerType.NOTEBOOK] if streaming.is_streaming() else []
    wanted = list(log_with) if isinstance(log_with, list | tuple) else [log_with]
    if LoggerType.ALL in wanted:
        instances = [one for one in wanted if isinstance(one, GeneralTracker)]
        wanted = [*instances, *get_available_trackers()]
    chosen: list[Wanted] = []
    for one in wanted:
        checked = _checked(one, logging_dir)
        if checked not in chosen:
            chosen.append(checked)
    return chosen


def _checked(wanted: Any, logging_dir: str | os.PathLike[str] | None) -> Wanted:
    if isinstance(wanted, GeneralTracker):
        return wanted
    if wanted not in tracker_names():
        given = wanted if isinstance(wanted, str) else repr(wanted)
        raise AccelnbError(
            f"log_with={given}: choose from {', '.join(tracker_names())}, all, or pass an instance "
            "of a class that derives from GeneralTracker"
        )
    name = str(wanted)
    if name not in _registered and name != LoggerType.NOTEBOOK:
        require(name)
    if tracker_class(name).requires_logging_directory and logging_dir is None:
        raise AccelnbError(
            f"log_with={name}: it writes files, but no folder is given: pass project_dir=, or "
            "project_config=ProjectConfiguration(logging_dir=)"
        )
    return name if name in _registered else LoggerType(name)


def _is_available(name: LoggerType) -> bool:
    return streaming.is_streaming() if name == LoggerType.NOTEBOOK else is_package_available(name)
