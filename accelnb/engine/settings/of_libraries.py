"""Settings of numpy, pandas and matplotlib: read in the notebook, held on a rank."""

from __future__ import annotations

import sys
from typing import Any

# ---- numpy ----

NUMPY_PRINTS = {
    "edgeitems": 3,
    "threshold": 1000,
    "floatmode": "maxprec",
    "precision": 8,
    "suppress": False,
    "linewidth": 75,
    "nanstr": "nan",
    "infstr": "inf",
    "sign": "-",
    "formatter": None,
    "legacy": False,
}


def read_print_options_of_numpy(numpy: Any) -> dict[str, Any]:
    now = numpy.get_printoptions()
    return {name: now[name] for name in NUMPY_PRINTS}


def hold_print_options_of_numpy(value: dict[str, Any]) -> None:
    import numpy as np

    np.set_printoptions(**value)


def read_float_errors(numpy: Any) -> dict[str, Any]:
    return numpy.geterr()


def hold_float_errors(value: dict[str, Any]) -> None:
    import numpy as np

    np.seterr(**value)


# ---- pandas ----

_held_of_pandas: set[str] = set()


def read_options_of_pandas(config: Any) -> dict[str, Any]:
    return config._global_config


def copied(tree: dict[str, Any]) -> dict[str, Any]:
    return {k: copied(v) if isinstance(v, dict) else v for k, v in tree.items()}


def changed_of_pandas(tree: dict[str, Any]) -> dict[str, Any]:
    changed = {}
    for key, option in sys.modules["pandas._config.config"]._registered_options.items():
        value: Any = tree
        for part in key.split("."):
            value = value[part]
        if value is not option.defval and value != option.defval:
            changed[key] = value
    return changed


def hold_options_of_pandas(value: dict[str, Any]) -> None:
    import pandas as pd

    for key in _held_of_pandas - value.keys():
        pd.reset_option(key)
    _held_of_pandas.clear()
    for key, option in value.items():
        pd.set_option(key, option)
        _held_of_pandas.add(key)


# ---- matplotlib ----

# What the process that draws decides: where it draws, with which window.
_OWN_OF_MATPLOTLIB = ("backend", "interactive", "toolbar", "savefig.directory", "webagg.", "tk.")
_held_of_matplotlib: set[str] = set()


def read_matplotlib(matplotlib: Any) -> tuple[Any, ...]:
    return tuple(dict.values(matplotlib.rcParams))  # its own methods take 20 times as long


def changed_of_matplotlib(values: tuple[Any, ...]) -> dict[str, Any]:
    matplotlib = sys.modules["matplotlib"]
    default = dict(dict.items(matplotlib.rcParamsDefault))
    now = dict(zip(dict.keys(matplotlib.rcParams), values, strict=True))
    return {
        name: value
        for name, value in now.items()
        if not name.startswith(_OWN_OF_MATPLOTLIB) and value != default.get(name)
    }


def hold_matplotlib(value: dict[str, Any]) -> None:
    import matplotlib

    now: Any = matplotlib.rcParams
    for name in _held_of_matplotlib - value.keys():
        now[name] = dict.__getitem__(matplotlib.rcParamsDefault, name)
    _held_of_matplotlib.clear()
    for name, one in value.items():
        now[name] = one
        _held_of_matplotlib.add(name)
