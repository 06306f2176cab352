"""Settings of numpy, pandas and matplotlib."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from accelnb.engine.settings.setting import Setting

_NUMPY_PRINTS = {
    "edgeitems": 3, "threshold": 1000, "floatmode": "maxprec", "precision": 8, "suppress": False,
    "linewidth": 75, "nanstr": "nan", "infstr": "inf", "sign": "-", "formatter": None,
    "legacy": False,
}  # fmt: skip


def _read_print_options(numpy: Any) -> dict[str, Any]:
    now = numpy.get_printoptions()
    return {name: now[name] for name in _NUMPY_PRINTS}


# ---- pandas ----

_held_of_pandas: set[str] = set()


def _copied(tree: dict[str, Any]) -> dict[str, Any]:
    return {k: _copied(v) if isinstance(v, dict) else v for k, v in tree.items()}


def _changed_of_pandas(tree: dict[str, Any]) -> dict[str, Any]:
    changed = {}
    for key, option in sys.modules["pandas._config.config"]._registered_options.items():
        value: Any = tree
        for part in key.split("."):
            value = value[part]
        if value is not option.defval and value != option.defval:
            changed[key] = value
    return changed


def _hold_pandas(_: Any, value: dict[str, Any]) -> None:
    import pandas as pd

    _hold(value, _held_of_pandas, pd.set_option, pd.reset_option)


# ---- matplotlib ----

# What the process that draws decides: where it draws, with which window.
_OWN_OF_MATPLOTLIB = ("backend", "interactive", "toolbar", "savefig.directory", "webagg.", "tk.")
_held_of_matplotlib: set[str] = set()


def _read_matplotlib(matplotlib: Any) -> tuple[Any, ...]:
    return tuple(dict.values(matplotlib.rcParams))  # its own methods take 20 times as long


def _changed_of_matplotlib(values: tuple[Any, ...]) -> dict[str, Any]:
    matplotlib = sys.modules["matplotlib"]
    default = dict(dict.items(matplotlib.rcParamsDefault))
    now = dict(zip(dict.keys(matplotlib.rcParams), values, strict=True))
    return {
        name: value
        for name, value in now.items()
        if not name.startswith(_OWN_OF_MATPLOTLIB) and value != default.get(name)
    }


def _hold_matplotlib(matplotlib: Any, value: dict[str, Any]) -> None:
    now, default = matplotlib.rcParams, matplotlib.rcParamsDefault
    _hold(
        value,
        _held_of_matplotlib,
        now.__setitem__,
        lambda name: now.__setitem__(name, dict.__getitem__(default, name)),
    )


def _hold(
    options: dict[str, Any],
    held: set[str],
    set_option: Callable[[str, Any], object],
    reset: Callable[[str], object],
) -> None:
    """Set `options`, and give those that were `held` and are not among them their defaults."""
    for name in held - options.keys():
        reset(name)
    held.clear()
    for name, value in options.items():
        set_option(name, value)
        held.add(name)


def _stand_in(module: Any) -> bool:
    return True  # it is imported: that is all that there is to it


SETTINGS = (
    Setting(
        "accelnb in the place of accelerate", "accelnb.compat.accelerate", _stand_in,
        lambda imported, value: None, False,
    ),
    Setting(
        "numpy's print options", "numpy", _read_print_options,
        lambda numpy, value: numpy.set_printoptions(**value), _NUMPY_PRINTS,
    ),
    Setting(
        "numpy.seterr", "numpy", lambda numpy: numpy.geterr(),
        lambda numpy, value: numpy.seterr(**value),
        {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"},
    ),
    Setting(
        "pandas' options", "pandas._config.config", lambda config: config._global_config,
        _hold_pandas, {}, _copied, _changed_of_pandas,
    ),
    Setting(
        "matplotlib's rcParams", "matplotlib", _read_matplotlib, _hold_matplotlib, {},
        value=_changed_of_matplotlib,
    ),
)  # fmt: skip
