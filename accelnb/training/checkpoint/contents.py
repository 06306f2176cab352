"""What each rank puts into a checkpoint: the objects, by the names of their files."""

from __future__ import annotations

import copy
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.checkpoint import (
    file_names,
    parameter_names,
    rng_states,
    unfinished_gradients,
)
from accelnb.training.checkpoint.dtensors import Tensors, as_shards, gathered, mapped, taken_out
from accelnb.training.checkpoint.weights import (
    clean_state_dict_for_safetensors,
    memory_of,
    merged_names,
    readable,
    unwrapped,
)
from accelnb.training.collective_errors import of_every_rank, together
from accelnb.training.dtensors import is_dtensor
from accelnb.training.gradients import Accumulation, GradientState
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.strategy import Strategy
from accelnb.training.pytree import recursively_apply
from accelnb.training.state import PartialState

IS_DIVIDED = "the model is divided over the ranks, and each has only its part"


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
    mesh: Mesh
    whole: bool = False  # what is divided over ranks is saved whole, by rank 0


@dataclass
class Contents:
    """What one rank writes.

    Attributes
    ----------
    files : dict
        Objects by the names of their files, on this rank.
    parts : dict
        What is divided over ranks: by the name of the object, then by the name in it.
    aliases : dict
        Names of parts that are other ones: tied weights.
    """

    files: dict[str, Any]
    parts: dict[str, Tensors] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)


def is_divided(model: nn.Module) -> bool:
    """Return whether ranks have different parts of a model's weights."""
    return any(is_dtensor(parameter) for parameter in as_shards(unwrapped(model)).parameters())


def parts_of(model: nn.Module) -> dict[str, Any]:
    """Return a model's state dict with this rank's parts. Tied weights are one object."""
    return as_shards(unwrapped(model)).state_dict(keep_vars=True)


def has_parts(training: Training) -> bool:
    """Return whether something of a training is divided over ranks, and saved so."""
    if training.whole:
        return False
    models = any(is_divided(model) for model in training.models)
    return models or any(parameter_names.is_sharded(o) for o in training.optimizers)


def takes_all_ranks(training: Training) -> str:
    """Return why no rank can save a training alone, empty if one can."""
    divided = any(is_divided(model) for model in training.models)
    if divided or any(parameter_names.is_sharded(o) for o in training.optimizers):
        return IS_DIVIDED
    return ""


def contents(
    training: Training,
    weights: list[dict[str, Any]],
    writes_shared: bool,
    safe_serialization: bool,
) -> Contents:
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

    def collect() -> Contents:
        mine = Contents(_of_rank(training) | differing)
        common = _shared(training, weights, safe_serialization, writes_shared, mine)
        if writes_shared:
            mine.files |= common
            for index, state in loaders.items():
                mine.files[file_names.numbered(file_names.LOADER, index)] = state
        mine.files = readable(mine.files)
        return mine

    return together(collect)


def _shared(
    training: Training,
    weights: list[dict[str, Any]],
    safe: bool,
    writes: bool,
    contents: Contents,
) -> dict[str, Any]:
    """Return what all ranks have in common; what is divided over them goes into `contents`."""
    files: dict[str, Any] = {}

    def put(name: str, index: int, state: Any) -> None:
        key = file_names.key(name, index)
        if training.whole:
            rest = mapped(state, key, lambda _, t: gathered(t, writes) if is_dtensor(t) else t)
        else:
            parts: Tensors = {}
            rest = taken_out(state, key, parts)
            if parts:
                short = {path.removeprefix(f"{key}."): part for path, part in parts.items()}
                contents.parts[key] = short
        files[file_names.numbered(name, index)] = rest

    model_file = file_names.MODEL if safe else file_names.MODEL_PICKLED
    for index, state in enumerate(weights):
        if any(is_dtensor(value) for value in state.values()):
            _put_model(contents, file_names.key(model_file, index), state)
            continue
        if safe:  # the names of tied ones are added when the file is written
            clean_state_dict_for_safetensors(state)
        files[file_names.numbered(model_file, index)] = state
    for index, optimizer in enumerate(training.optimizers):
        state = optimizer.state_dict()
        if parameter_names.is_sharded(optimizer) and not training.whole:
            names = parameter_names.names_of(optimizer, training.models)
            state = parameter_names.by_name(state, names, kind_of(optimizer, "optimizer"))
        put(file_names.OPTIMIZER, index, state)
    for index, thing in enumerate(training.schedulers):
        files[file_names.numbered(file_names.SCHEDULER, index)] = thing.state_dict()
    for index, thing in enumerate(training.custom):
        put(file_names.CUSTOM, index, thing.state_dict())
    if training.scaler is not None:
        files[file_names.SCALER] = training.scaler.state_dict()
    return files


def _put_model(contents: Contents, key: str, state: dict[str, Any]) -> None:
    """Put all of a model's weights among the parts, those too that every rank has whole."""
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise AccelnbError(
                f"{name} is a {type(value).__name__}, and the checkpoint of a sharded model holds "
                "tensors alone"
            )
    tied = merged_names(state)
    parts: Tensors = {}
    taken_out({name: value for name, value in state.items() if name not in tied}, key, parts)
    short = {path.removeprefix(f"{key}."): part for path, part in parts.items()}
    whole = {k: v.detach() for k, v in state.items() if k not in tied and not is_dtensor(v)}
    contents.parts[key] = short | whole
    contents.aliases |= {f"{key}.{name}": f"{key}.{kept}" for name, kept in tied.items()}


def added_by(training: Training) -> dict[str, Any]:
    """Return what a rank adds to a checkpoint that rank 0 saves without it."""
    rank = training.process.process_index
    loaders = _loader_states(training).items()
    own = {file_names.loader_of_rank(index, rank): state for index, state in loaders}
    return copied(readable(_of_rank(training) | own))


def _of_rank(training: Training) -> dict[str, Any]:
    rank = training.process.process_index
    states = {"step": training.accumulation.step, **rng_states.capture(training.process.device)}
    files: dict[str, Any] = {file_names.random_states(rank): states}
    if training.accumulation.step % training.gradients.num_steps:  # within an accumulation
        files[file_names.gradients(rank)] = unfinished_gradients.capture(training.models)
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
        if leaf.is_meta:  # what is in the folder of parts
            return leaf
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
