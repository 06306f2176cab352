"""Settings of Python: decimals, processes, warnings."""

from __future__ import annotations

import operator
import sys
import warnings
from typing import Any

from accelnb.engine.settings.setting import Setting

_DECIMAL = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")
_read_parts = operator.attrgetter(*_DECIMAL)
_DECIMAL_DEFAULT = (
    *(28, "ROUND_HALF_EVEN", -999999, 999999, 1, 0),
    ("InvalidOperation", "DivisionByZero", "Overflow"),
)


def _read_decimal(decimal: Any) -> Any:
    now = decimal.getcontext()
    return _read_parts(now), list(now.traps.values())


def _described_decimal(state: Any) -> Any:
    signals = list(sys.modules["decimal"].getcontext().traps)
    parts, traps = state
    return *parts, tuple(s.__name__ for s, is_trap in zip(signals, traps, strict=True) if is_trap)


def _hold_decimal(decimal: Any, value: Any) -> None:
    now = decimal.getcontext()
    *parts, traps = value
    for name, part in zip(_DECIMAL, parts, strict=True):
        setattr(now, name, part)
    for signal in now.traps:
        now.traps[signal] = signal.__name__ in traps


def _read_start_method(multiprocessing: Any) -> str | None:
    method = multiprocessing.get_start_method(allow_none=True)
    return None if method == multiprocessing.get_all_start_methods()[0] else method


# ---- warnings ----

# A filter as it travels: action, message, category by its name, module, line.
Filter = tuple[str, Any, str, Any, int]
_held: list[Any] = []  # the filters that a rank has from the notebook


def _described_filters(filters: list[Any]) -> list[Filter]:
    return [
        (action, message, f"{category.__module__}:{category.__qualname__}", module, line)
        for action, message, category, module, line in filters
    ]


def hold_filters(_: Any, value: list[Filter], *, before: bool = True) -> bool:
    """Put the notebook's filters before those of libraries that only the rank has.

    A category of a library that the rank has not imported yet is left out until it has.

    Parameters
    ----------
    before
        Whether they also go before those that the rank's own cells have set, which end then.

    Returns
    -------
    whole : bool
        Whether every category was there.
    """
    categories = [_category(name) for _, _, name, _, _ in value]
    ours = [
        (action, message, category, module, line)
        for (action, message, _, module, line), category in zip(value, categories, strict=True)
        if category is not None
    ]
    own = [filter for filter in warnings.filters if filter not in _held and filter not in ours]
    of_cells = [] if before else [filter for filter in own if _is_plain(filter)]
    of_libraries = [filter for filter in own if not _is_plain(filter)]
    warnings.resetwarnings()  # which also has all that was decided before forgotten
    warnings.filters[:] = [*of_cells, *ours, *of_libraries]  # type: ignore[index]
    _held[:] = ours
    return len(ours) == len(value)


def _category(name: str) -> type[Warning] | None:
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _is_plain(filter: Any) -> bool:
    """Tell whether a filter is one of Python's, or such as people set."""
    _, message, category, _, _ = filter
    return message is None and category.__module__ == "builtins"


FILTERS = Setting(
    "the warnings filters", "warnings", lambda warnings: warnings.filters, hold_filters, None,
    list, _described_filters,
)  # fmt: skip
SETTINGS = (
    Setting(
        "the recursion limit", "sys", lambda python: python.getrecursionlimit(),
        lambda python, limit: python.setrecursionlimit(limit), 1000,
    ),
    Setting(
        "the decimal context", "decimal", _read_decimal, _hold_decimal, _DECIMAL_DEFAULT,
        value=_described_decimal,
    ),
    Setting(
        "multiprocessing's start method", "multiprocessing", _read_start_method,
        lambda multiprocessing, method: multiprocessing.set_start_method(method, force=True), None,
    ),
    FILTERS,
)  # fmt: skip
