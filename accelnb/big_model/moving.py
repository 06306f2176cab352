"""Models that hooks have put in their places are not moved as one."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import nn

from accelnb.big_model.hooks import MOVING
from accelnb.errors import AccelnbError
from accelnb.training.parallel.meta_start.without_values import named_tensors, some


class MovedOffloadedModel(AccelnbError, RuntimeError):
    """A model was to be moved that has weights on cpu or disk."""


def guard_moves(model: nn.Module) -> None:
    """Have a model refuse to be moved while weights of it are kept elsewhere, and warn else."""
    for name in MOVING:
        if hasattr(type(model), name):
            vars(model)[name] = functools.partial(_move, model, name)


def _move(model: nn.Module, name: str, *args: Any, **kwargs: Any) -> Any:
    if name != "to" or _names_device(*args, **kwargs):
        away = [name for name, tensor in named_tensors(model).items() if tensor.is_meta]
        if away:
            raise MovedOffloadedModel(
                f"You can't move a model that has some modules offloaded to cpu or disk, as "
                f"{some(away)} here: remove_hook_from_submodules(model) brings them back first"
            )
        warnings.warn(
            "this model is moved, though its hooks have put its parts on their devices: they do "
            "not fit together then. Dispatch it anew",
            stacklevel=2,
        )
    return getattr(type(model), name)(model, *args, **kwargs)


def _names_device(*args: Any, **kwargs: Any) -> bool:
    parse: Any = torch._C  # what nn.Module.to asks
    return parse._nn._parse_to(*args, **kwargs)[0] is not None
