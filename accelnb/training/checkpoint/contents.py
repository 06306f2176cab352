"""What each rank puts into a checkpoint: the objects, by the names of their files."""

from __future__ import annotations

import copy
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from accelnb.training.checkpoint import file_names, rng_states
from accelnb.training.checkpoint.weights import (
    clean_state_dict_for_safetensors,
    memory_of,
    readable,
    unwrapped,
)
from accelnb.training.collective_errors import of_every_rank, together
from accelnb.training.gradients import Accumulation, GradientState
from accelnb.training.parallel.strategy import Strategy
from accelnb.training.pytree import recursively_apply
from accelnb.training.state import PartialState


@dataclass
class Training:
    """What a checkpoint is of. The lists are those of the Accelerator, and grow with them."""

    process: PartialState
    models: list[nn.Module]
    optimizers: list[Any]
    schedulers: list[Any]
    loaders: list[Any]
    custom: list[Any]  # objects registered by the user
    scaler: torch.amp.GradScaler | None
    gradients: GradientState
    accumulation: Accumulation
    strategy: Strategy


def contents(
    training: Training,
    weights: list[dict[str, Any]],
    writes_shared: bool,
    safe_serialization: bool,
) -> dict[str, Any]:
    """Return what this rank writes. A collective.

    Parameters
    ----------
    weights
        State dicts of the models; hooks may have taken some out.
    writes_shared
        Whether this rank also writes what all ranks have in common.
    """
    loaders = together(lambda: _loader_states(training))
    # Rank 0's state of a loader stands for those that equal it.
    digests = of_every_rank([_digest(state) for state in loaders.values()])
    rank = training.process.process_index
    differing = {
        file_names.loader_of_rank(index, rank): state
        for place, (index, state) in enumerate(loaders.items())
        if digests[rank][place] != digests[0][place]
    }

    def collect() -> dict[str, Any]:
        files = _of_rank(training) | differing
        if not writes_shared:
            return readable(files)
        common = {
            file_names.numbered(file_names.LOADER, index): state for index, state in loaders.items()
        }
        return readable(files | common | _shared(training, weights, safe_serialization))

    return together(collect)


def _shared(training: Training, weights: list[dict[str, Any]], safe: bool) -> dict[str, Any]:
    files: dict[str, Any] = {}
    model = file_names.MODEL if safe else file_names.MODEL_PICKLED
    for index, state in enumerate(weights):
        if safe:  # the names of tied ones are added when the file is written
            clean_state_dict_for_safetensors(state)
        files[file_names.numbered(model, index)] = state
    for name, things in (
        (file_names.OPTIMIZER, training.optimizers),
        (file_names.SCHEDULER, training.schedulers),
        (file_names.CUSTOM, training.custom),
    ):
        for index, thing in enumerate(things):
            files[file_names.numbered(name, index)] = thing.state_dict()
    if training.scaler is not None:
        files[file_names.SCALER] = training.scaler.state_dict()
    return files


def _of_rank(training: Training) -> dict[str, Any]:
    rank = training.process.process_index
    states = {"step": training.accumulation.step, **rng_states.capture(training.process.device)}
    files: dict[str, Any] = {file_names.random_states(rank): states}
    if training.accumulation.step % training.gradients.num_steps:  # within an accumulation
        files[file_names.gradients(rank)] = [
            {name: p.grad for name, p in unwrapped(model).named_parameters() if p.grad is not None}
            for model in training.models
        ]
    return files


def _loader_states(training: Training) -> dict[int, Any]:
    return {
        index: loader.state_dict()
        for index, loader in enumerate(training.loaders)
        if hasattr(loader, "state_dict")
    }


def _digest(state: Any) -> bytes:
    written = io.BytesIO()
    torch.save(state, written)
    return hashlib.sha256(written.getvalue()).digest()


def kinds(training: Training) -> dict[str, list[str]]:
    """Return the names of the classes of the optimizers and schedulers."""
    return {
        "optimizer": [kind_of(thing, "optimizer") for thing in training.optimizers],
        "scheduler": [kind_of(thing, "scheduler") for thing in training.schedulers],
    }


def kind_of(prepared: Any, attribute: str) -> str:
    """Return the name of the class of what was prepared."""
    return type(vars(prepared).get(attribute, prepared)).__name__


def copied(files: dict[str, Any]) -> dict[str, Any]:
    """Return a copy on the CPU, which training does not change. Tied tensors stay tied."""
    known: dict[Any, torch.Tensor] = {}

    def copy_leaf(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return copy.deepcopy(leaf)
        memory = memory_of(leaf)
        if memory not in known:
            known[memory] = leaf.detach().to("cpu", copy=True)
        return known[memory]

    def is_leaf(value: Any) -> bool:
        return not isinstance(value, tuple | list | Mapping)

    return {
        name: recursively_apply(copy_leaf, state, test_type=is_leaf)
        for name, state in files.items()
    }
