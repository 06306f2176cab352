"""Models made without memory for their weights, or with it on another device at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from accelnb.big_model.parameters import parameter_like
from accelnb.big_model.places import Place, as_device
from accelnb.training.accelerate_names import parse_flag_from_env


@contextmanager
def init_empty_weights(include_buffers: bool | None = None) -> Iterator[None]:
    """Make models whose parameters have no values (on the meta device), and take no memory.

    `load_checkpoint_and_dispatch` or `load_checkpoint_in_model` gives them values. No more than
    one tensor at a time is in memory. Tied weights are tied.

    Parameters
    ----------
    include_buffers
        Buffers too. By default only if the variable ``ACCELERATE_INIT_INCLUDE_BUFFERS`` says so:
        many models compute theirs and save none.

    Examples
    --------
    >>> import torch
    >>> from accelnb import init_empty_weights
    >>> with init_empty_weights():
    ...     model = torch.nn.Sequential(*(torch.nn.Linear(1000, 1000) for _ in range(100)))
    >>> model[99].weight.device
    device(type='meta')
    """
    with init_on_device(torch.device("meta"), include_buffers):
        yield


@contextmanager
def init_on_device(device: Place, include_buffers: bool | None = None) -> Iterator[None]:
    """Make models whose parameters are on a device from the start.

    Parameters
    ----------
    include_buffers
        As in `init_empty_weights`. All tensors that the code makes are then made there.

    Examples
    --------
    >>> import torch
    >>> from accelnb import init_on_device
    >>> with init_on_device("meta"):
    ...     layer = torch.nn.BatchNorm1d(4)
    >>> layer.weight.device.type, layer.running_mean.device.type
    ('meta', 'cpu')
    """
    if include_buffers is None:
        include_buffers = parse_flag_from_env("ACCELERATE_INIT_INCLUDE_BUFFERS")
    target = as_device(device)
    if include_buffers:
        with target:
            yield
        return

    def moved(_: nn.Module, __: str, parameter: nn.Parameter | None) -> Any:
        if parameter is None or parameter.device == target:
            return None  # it is left as it is
        return parameter_like(parameter, parameter, target, parameter.dtype)

    hook = register_module_parameter_registration_hook(moved)
    try:
        yield
    finally:
        hook.remove()
