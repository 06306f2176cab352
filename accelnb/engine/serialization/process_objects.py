"""Objects that stand for this process: its shell, its streams. Elsewhere, they are those there."""

from __future__ import annotations

import argparse
import os
import pickle
import random
import sys
from typing import Any

from cloudpickle import cloudpickle

_STREAMS = ("stdout", "stderr", "stdin", "__stdout__", "__stderr__", "__stdin__")


def own_stream(obj: Any) -> str | None:
    """Return the name in `sys` of the stream that `obj` is, None if it is another."""
    for name in _STREAMS:
        if obj is getattr(sys, name, None):
            return name
    # A notebook's that is not in use now, as in a cell with %%capture.
    is_notebooks = any(base.__module__ == "ipykernel.iostream" for base in type(obj).__mro__)
    return getattr(obj, "name", None) if is_notebooks else None


def stream(obj: Any) -> Any:
    name = own_stream(obj)
    return (_stream_here, (name,)) if name else obj.__reduce_ex__(5)


def text_file(obj: Any) -> Any:
    name = own_stream(obj)
    return (_stream_here, (name,)) if name else cloudpickle._file_reduce(obj)


def _stream_here(name: str) -> Any:
    return getattr(sys, name)


def shell(obj: Any) -> Any:
    return _shell_here, ()


def _shell_here() -> Any:
    ipython = sys.modules.get("IPython")
    here = ipython.get_ipython() if ipython is not None else None
    if here is None:
        raise pickle.UnpicklingError("get_ipython() of the notebook: there is no IPython here")
    return here


def environment(obj: Any) -> Any:
    return (getattr, (os, "environ")) if obj is os.environ else obj.__reduce_ex__(5)


def random_numbers(obj: Any) -> Any:
    """Send the generator behind `random.random` or `numpy.random.rand` as the one there."""
    if obj is random._inst:  # type: ignore[attr-defined]
        return getattr, (random, "_inst")
    mtrand = sys.modules.get("numpy.random.mtrand")
    if mtrand is not None and obj is mtrand._rand:  # type: ignore[attr-defined]
        return getattr, (mtrand, "_rand")
    return obj.__reduce_ex__(5)


def console(obj: Any) -> Any:
    """Send what a rich console was told; what it found out of its process it finds out there."""
    from rich.console import Console

    found_out = Console().__dict__
    told = {n: v for n, v in obj.__dict__.items() if n not in found_out or v != found_out[n]}
    return _console_here, (type(obj),), told


def _console_here(kind: Any) -> Any:
    from rich.console import Console

    made = kind.__new__(kind)
    Console.__init__(made)
    return made


class _Mark:
    """Stands for `argparse.SUPPRESS`, a text that argparse knows by its identity."""


def marked(value: Any) -> Any:
    if value is argparse.SUPPRESS:
        return _Mark()
    return {n: marked(v) for n, v in value.items()} if type(value) is dict else value


def set_marked(part: Any, state: dict[str, Any]) -> None:
    part.__dict__.update({name: _unmarked(value) for name, value in state.items()})


def _unmarked(value: Any) -> Any:
    if isinstance(value, _Mark):
        return argparse.SUPPRESS
    return {n: _unmarked(v) for n, v in value.items()} if type(value) is dict else value
