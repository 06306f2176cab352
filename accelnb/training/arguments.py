"""What an Accelerator is given, checked and brought together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from accelnb.errors import AccelnbError
from accelnb.options import environment
from accelnb.training.configuration import (
    AORecipeKwargs,
    AutocastKwargs,
    DataLoaderConfiguration,
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    GradScalerKwargs,
    InitProcessGroupKwargs,
    KwargsHandler,
    ProfileKwargs,
)
from accelnb.training.not_here import DEEPSPEED, MEGATRON, TENSOR_PARALLEL

# Arguments of Accelerate whose features are not here.
_ABSENT = {
    "deepspeed_plugin": DEEPSPEED,
    "deepspeed_plugins": DEEPSPEED,
    "megatron_lm_plugin": MEGATRON,
    "torch_tp_plugin": TENSOR_PARALLEL,
}


def handlers_by_type(handlers: Iterable[KwargsHandler]) -> dict[type, Any]:
    known = (
        AutocastKwargs,
        DistributedDataParallelKwargs,
        GradScalerKwargs,
        InitProcessGroupKwargs,
        ProfileKwargs,
        AORecipeKwargs,
    )
    found: dict[type, Any] = {}
    for handler in handlers:
        if not isinstance(handler, known):
            choices = ", ".join(kind.__name__ for kind in known)
            raise AccelnbError(f"kwargs_handlers: {type(handler).__name__} is none of {choices}")
        if type(handler) in found:
            raise AccelnbError(f"kwargs_handlers: there are two {type(handler).__name__}")
        found[type(handler)] = handler
    return found


def refuse_absent(given: Mapping[str, Any]) -> None:
    """Refuse Accelerate's arguments that are not here, but for None, which trainers pass on."""
    for name, value in given.items():
        if name not in _ABSENT:
            raise TypeError(f"Accelerator.__init__() got an unexpected keyword argument {name!r}")
        if value is not None:
            raise AccelnbError(f"{name}: {_ABSENT[name]}")


def accumulation(
    steps: int | None, plugin: GradientAccumulationPlugin | None
) -> GradientAccumulationPlugin:
    if plugin is None:
        steps = environment.number(environment.ACCUMULATION, default=1) if steps is None else steps
        return GradientAccumulationPlugin(accumulation_steps(steps))
    if steps not in (None, 1):
        raise AccelnbError(
            "give one of gradient_accumulation_steps and gradient_accumulation_plugin, not both"
        )
    accumulation_steps(plugin.num_steps)
    return dataclasses.replace(plugin)


def accumulation_steps(value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise AccelnbError(
            f"gradient_accumulation_steps={value}: must be a whole number of at least 1"
        )
    return value


def data_configuration(
    config: DataLoaderConfiguration | None, split_batches: bool | None
) -> DataLoaderConfiguration:
    config = dataclasses.replace(config) if config else DataLoaderConfiguration()
    if split_batches is not None:
        config.split_batches = split_batches
    return config
