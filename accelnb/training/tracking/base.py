"""What every experiment tracker does, and the base class for a user's own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from accelnb.errors import AccelnbError
from accelnb.training.logs import get_logger
from accelnb.training.state import PartialState

logger = get_logger(__name__)


def on_main_process(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a tracker's method do nothing on other ranks than 0, if it is ``main_process_only``."""

    @functools.wraps(method)
    def run_or_not(self: GeneralTracker, *args: Any, **kwargs: Any) -> Any:
        # Asked when it is called: a tracker may be made before the process group.
        if getattr(self, "main_process_only", False) and not PartialState().is_main_process:
            return None
        return method(self, *args, **kwargs)

    return run_or_not


class GeneralTracker:
    """The base of all trackers. Derive from it for one of your own.

    Pass an instance as ``Accelerator(log_with=...)``, or `register_tracker_class` the class and
    pass its name. `Accelerator` calls these methods on the main process only.

    Attributes
    ----------
    name : str
        How `Accelerator.get_tracker` finds it.
    requires_logging_directory : bool
        Whether a tracker that is made by its name takes the logging folder, after the project.
    tracker : Any
        What does the work, such as the run of wandb: usually a property.
    main_process_only : bool
        Whether methods with `on_main_process` do nothing on the other ranks.

    Raises
    ------
    AccelnbError
        The class lacks `name`, `requires_logging_directory` or `tracker`.

    Examples
    --------
    >>> from accelnb import Accelerator
    >>> from accelnb.training.tracking import GeneralTracker, on_main_process
    >>> class Printer(GeneralTracker):
    ...     name = "printer"
    ...     requires_logging_directory = False
    ...     tracker = print
    ...
    ...     @on_main_process
    ...     def log(self, values, step=None, **kwargs):
    ...         print(step, values)
    >>> accelerator = Accelerator(log_with=Printer())
    >>> accelerator.init_trackers("my project")
    >>> accelerator.log({"loss": 0.5}, step=1)
    1 {'loss': 0.5}
    """

    name: str
    requires_logging_directory: bool
    tracker: Any
    main_process_only = True

    def __init__(self, _blank: bool = False) -> None:
        if _blank:
            return
        needed = ("name", "requires_logging_directory", "tracker")
        # `tracker` may be a property that has no value before start().
        missing = [attribute for attribute in needed if attribute not in dir(self)]
        if missing:
            raise AccelnbError(f"class {type(self).__name__}: define {', '.join(missing)} in it")

    def start(self) -> None:
        """Begin the run. `Accelerator.init_trackers` calls this."""

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Keep hyperparameters with the run."""

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log values by name. What is one number comes as a number, also if it was a tensor."""

    def finish(self) -> None:
        """End the run. `Accelerator.end_training` calls this."""


class BlankTracker(GeneralTracker):
    """What other ranks get instead of a tracker: whatever is called on it does nothing."""

    name = "blank"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__(_blank=True)

    def __getattr__(self, attribute: str) -> BlankTracker:
        if attribute.startswith("__"):  # Python asks for these itself, as to copy an object
            raise AttributeError(attribute)
        return self

    def __call__(self, *_: Any, **__: Any) -> None:
        return None


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with a number in the place of each tensor or array of one element.

    Raises
    ------
    AccelnbError
        `values` is not a mapping.

    Examples
    --------
    >>> import torch
    >>> from accelnb.training.tracking.base import plain
    >>> plain({"loss": torch.tensor(0.5), "lr": {"head": torch.tensor([0.25])}, "note": "text"})
    {'loss': 0.5, 'lr': {'head': 0.25}, 'note': 'text'}
    """
    if not isinstance(values, Mapping):
        raise AccelnbError(
            f"log() takes a dict of names and values, not a {type(values).__name__}: "
            'log({"loss": 0.5}, step=1)'
        )
    return {name: _plain_value(value) for name, value in values.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, int | float | str):
        return value
    if isinstance(value, Mapping):
        return plain(value)
    count = value.numel() if hasattr(value, "numel") else getattr(value, "size", None)
    return value.item() if count == 1 and hasattr(value, "item") else value


def of_kinds(tracker: str, values: Mapping[str, Any], *kinds: type) -> dict[str, Any]:
    """Return those of the values that are of these kinds; warn once of each other name."""
    kept = {}
    for name, value in plain(values).items():
        if isinstance(value, kinds):
            kept[name] = value
        else:
            warn_dropped(tracker, name, value)
    return kept


def warn_dropped(tracker: str, name: str, value: Any) -> None:
    """Warn, once for each name, that the tracker does not take such a value."""
    kind = type(value).__name__
    logger.warning_once(f"{tracker} does not take {name!r}, a {kind}: it is left out")
