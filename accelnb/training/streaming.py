"""`accelnb.stream`: send a value from a rank to the notebook while the cell runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

KINDS = ("scalar", "tensor", "image", "histogram")

# Takes the values on a rank; elsewhere there is none.
_sink: Callable[[str, Any, int | None, str | None], None] | None = None


def stream(name: str, value: Any, step: int | None = None, *, kind: str | None = None) -> None:
    """Show a value in the notebook at once, and keep it there as ``run.metrics[name]``.

    It never waits for the notebook: if that falls behind, the rank keeps the newest values and
    counts those it dropped. Outside a rank, as in an exported script, it does nothing.

    Parameters
    ----------
    name
        Under which the notebook finds it: ``run.metrics["loss"]`` for scalars,
        ``run["weights"]`` for any kind.
    value
        A number, or a tensor or array with one element (a scalar); a tensor or array of up to
        16 MiB. It is copied: later changes in place do not matter.
    step
        Its place on the x axis; by default 0, 1, 2 ... for each name in a cell.
    kind
        ``scalar``, ``tensor``, ``image`` (height × width, or with 1, 3 or 4 channels first or
        last) or ``histogram`` (of all elements, in 32 bins). By default a scalar for one
        number, else a tensor.

    Raises
    ------
    ValueError
        The value does not fit the kind, or is too large; the name is no text, or stands for
        another kind in this cell.

    Examples
    --------
    >>> import accelnb
    >>> for step in range(3):
    ...     accelnb.stream("loss", 1 / (step + 1), step)
    """
    __tracebackhide__ = True  # an error is to point at the cell's own line
    if _sink is not None:
        _sink(name, value, step, kind)


def send_to(sink: Callable[[str, Any, int | None, str | None], None] | None) -> None:
    """Have `stream` hand its values to `sink`."""
    global _sink
    _sink = sink


def is_streaming() -> bool:
    """Return whether there is a notebook that takes what `stream` is given.

    Examples
    --------
    >>> from accelnb.training.streaming import is_streaming
    >>> is_streaming()
    False
    """
    return _sink is not None
