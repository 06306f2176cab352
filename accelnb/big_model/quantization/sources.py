"""Where the values of a model's tensors come from: its files, or the model itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accelnb.training.checkpoint.files import in_place, load_weights
from accelnb.training.checkpoint.reading_weights import files_of
from accelnb.training.checkpoint.weights import opened
from accelnb.training.parallel.slices import held


@dataclass(frozen=True)
class Value:
    """A tensor that is not in memory until it is read."""

    shape: tuple[int, ...]
    is_floating: bool
    read: Callable[[], torch.Tensor]


Values = Mapping[str, Value]


@contextmanager
def values_in(location: str | os.PathLike[str]) -> Iterator[Values]:
    """Map the files of a checkpoint into memory within a ``with`` block.

    Raises
    ------
    AccelnbError
        There are none, or they are damaged.

    Examples
    --------
    >>> import tempfile, torch
    >>> from accelnb import Accelerator
    >>> from accelnb.big_model.quantization.sources import values_in
    >>> folder = tempfile.mkdtemp()
    >>> Accelerator().save_model(torch.nn.Linear(2, 1), folder)
    >>> with values_in(folder) as values:
    ...     values["weight"].shape
    (1, 2)
    """
    files: list[Any] = []
    values: dict[str, Value] = {}
    try:
        for path in files_of(Path(location).expanduser()):
            if path.suffix == ".safetensors":
                files.append(opened(path).__enter__())
                values |= _in_safetensors(files[-1])
            else:
                values |= _in_state(load_weights(path, **in_place(path)))
        yield values
    finally:
        for file in files:
            file.__exit__(None, None, None)


def values_of(model: nn.Module) -> Values:
    """Return the values that a model has, each until it gets another in its place."""
    return {
        name: Value(
            tuple(tensor.shape), tensor.is_floating_point(), partial(_in_model, model, name)
        )
        for name, tensor in named_slots(model)
    }


def named_slots(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each place that holds a parameter or buffer: its name, and what it holds.

    A tied tensor is there once for each place.
    """
    for path, module in model.named_modules(remove_duplicate=False):
        for key, it in (*module._parameters.items(), *module._buffers.items()):
            if it is not None:
                yield (f"{path}.{key}" if path else key), it


def _in_safetensors(file: Any) -> dict[str, Value]:
    own: dict[str, Value] = {}
    for name in list(file.keys()):
        header = file.get_slice(name)
        is_floating = header.get_dtype().startswith(("F", "BF"))
        own[name] = Value(tuple(header.get_shape()), is_floating, partial(file.get_tensor, name))
    tied = file.metadata() or {}
    return own | {name: own[kept] for name, kept in tied.items() if kept in own}


def _in_state(state: Mapping[str, Any]) -> dict[str, Value]:
    return {
        name: Value(tuple(tensor.shape), tensor.is_floating_point(), tensor.detach)
        for name, tensor in state.items()
        if isinstance(tensor, torch.Tensor)
    }


def _in_model(model: nn.Module, name: str) -> torch.Tensor:
    path, _, key = name.rpartition(".")
    return held(model.get_submodule(path), key).detach()
