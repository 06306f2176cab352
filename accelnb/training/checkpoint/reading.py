"""A checkpoint read and checked whole, before anything of the training is changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.checkpoint import file_names, rng_states
from accelnb.training.checkpoint.contents import Training, kind_of
from accelnb.training.checkpoint.files import load
from accelnb.training.checkpoint.manifest import Manifest, check_complete
from accelnb.training.checkpoint.shards import weights_in
from accelnb.training.checkpoint.weights import (
    differences,
    shapes_of,
    without_ddp_prefix,
)

Pairs = list[tuple[Any, Any]]  # an object and the state for it

# States that common optimizers keep for each element of a parameter.
_ELEMENTWISE = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "sum")


@dataclass
class States:
    """Everything of a checkpoint but the models' weights, for one rank."""

    optimizers: Pairs
    schedulers: Pairs
    loaders: Pairs
    custom: Pairs
    scaler: dict[str, Any] | None
    rng: dict[str, Any] | None
    gradients: list[dict[str, torch.Tensor]] | None
    step: int


def read_states(
    training: Training,
    folder: Path,
    location: torch.device,
    load_kwargs: dict[str, Any],
) -> States:
    """Read what this rank needs.

    Raises
    ------
    AccelnbError
        Something is missing, damaged, or does not fit what was prepared.
    """
    if not folder.is_dir():
        raise AccelnbError(f"input_dir={folder}: there is no such folder")
    manifest = check_complete(folder)

    def read(name: str, where: Any = "cpu") -> Any:
        return load(folder / name, **{"map_location": where, **load_kwargs})

    def pairs(things: Sequence[Any], name: str, where: Any = "cpu") -> Pairs:
        _check_number(folder, name, len(things))
        return [(x, read(file_names.numbered(name, i), where)) for i, x in enumerate(things)]

    optimizers = pairs(training.optimizers, file_names.OPTIMIZER, location)
    schedulers = pairs(training.schedulers, file_names.SCHEDULER)
    for kind, found in (("optimizer", optimizers), ("scheduler", schedulers)):
        _check_kinds(folder, kind, found, manifest)

    rank = training.process.process_index
    own = folder / file_names.random_states(rank)
    rng = read(own.name) if own.exists() else None
    if rng is not None:
        rng_states.check(rng, own)
    step = manifest.step if manifest else (rng or {}).get("step", 0)
    as_many = manifest is None or manifest.num_processes == training.process.num_processes
    gradients = file_names.gradients(rank)
    return States(
        optimizers=optimizers,
        schedulers=schedulers,
        loaders=_read_loaders(training, folder, read, as_many),
        custom=pairs(training.custom, file_names.CUSTOM),
        scaler=_read_scaler(training.scaler, folder, read),
        rng=rng,
        gradients=read(gradients) if as_many and (folder / gradients).exists() else None,
        step=step if as_many or step % training.gradients.num_steps == 0 else 0,
    )


def check_optimizers(optimizers: Pairs, folder: Path) -> None:
    """Compare the states of optimizers with the parameters that they have here.

    Raises
    ------
    AccelnbError
        They are of another model.
    """
    for index, (optimizer, state) in enumerate(optimizers):
        _check_optimizer(
            folder / file_names.numbered(file_names.OPTIMIZER, index), optimizer, state
        )


def read_weights(
    models: list[nn.Module], folder: Path, location: torch.device, strict: bool
) -> list[tuple[nn.Module, dict[str, Any]]]:
    """Read the weights of unwrapped models.

    Raises
    ------
    AccelnbError
        They are missing, damaged, or of other models.
    """
    found = file_names.count(folder, file_names.MODEL) or file_names.count(
        folder, file_names.MODEL_PICKLED
    )
    if models and found != len(models):
        raise AccelnbError(f"{folder} has weights of {found} models, and {len(models)} are here")
    read = []
    for index, model in enumerate(models):
        path = folder / file_names.numbered(file_names.MODEL, index)
        if not path.exists():
            path = folder / file_names.numbered(file_names.MODEL_PICKLED, index)
        state = without_ddp_prefix(weights_in(path, location), model)
        fatal, _ = differences(model, shapes_of(state), strict)
        if fatal:
            raise AccelnbError(f"{path} is not of this {type(model).__name__}: {fatal}")
        read.append((model, state))
    return read


def _check_number(folder: Path, name: str, number: int) -> None:
    found = file_names.count(folder, name)
    if name == file_names.LOADER and not found:
        return
    custom = name == file_names.CUSTOM
    if found != number and (number or custom):
        kind = name.partition(".")[0]
        what = "objects registered for checkpointing" if custom else f"{kind}s"
        raise AccelnbError(
            f"{folder} has {found} {what}, and {number} are here: prepare and register as many as "
            "when it was saved"
        )


def _check_kinds(folder: Path, kind: str, found: Pairs, manifest: Manifest | None) -> None:
    saved = manifest.kinds.get(kind, []) if manifest else []
    for index, ((thing, state), was) in enumerate(zip(found, saved, strict=False)):
        if (now := kind_of(thing, kind)) != was:
            raise AccelnbError(f"{kind} {index} is a {now}, and in {folder} it is a {was}")
        if not isinstance(state, dict):
            raise AccelnbError(f"{folder} is damaged: the state of {kind} {index} is no dict")


def _check_optimizer(path: Path, optimizer: Any, state: Any) -> None:
    groups = state.get("param_groups") if isinstance(state, dict) else None
    if groups is None:
        raise AccelnbError(f"{path} holds no state of an optimizer")
    sizes = [len(group["params"]) for group in groups]
    own_sizes = [len(group["params"]) for group in optimizer.param_groups]
    if sizes != own_sizes:
        raise AccelnbError(
            f"{path} is of an optimizer with {sizes} parameters in its groups, and this "
            f"{kind_of(optimizer, 'optimizer')} has {own_sizes}"
        )
    numbers = [number for group in groups for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        for name in _ELEMENTWISE:
            value = state["state"].get(number, {}).get(name)
            if isinstance(value, torch.Tensor) and value.shape != parameter.shape:
                raise AccelnbError(
                    f"{path} is of another model: {name} of parameter {number} is "
                    f"{list(value.shape)}, and the parameter is {list(parameter.shape)}"
                )


def _read_loaders(
    training: Training, folder: Path, read: Callable[[str], Any], as_many: bool
) -> Pairs:
    loaders = [(i, x) for i, x in enumerate(training.loaders) if hasattr(x, "state_dict")]
    _check_number(folder, file_names.LOADER, len(loaders))
    found = []
    for index, loader in loaders:
        name = file_names.loader_of_rank(index, training.process.process_index)
        if not as_many or not (folder / name).exists():
            name = file_names.numbered(file_names.LOADER, index)
        if (folder / name).exists():
            found.append((loader, read(name)))
    return found


def _read_scaler(
    scaler: torch.amp.GradScaler | None, folder: Path, read: Callable[[str], Any]
) -> dict[str, Any] | None:
    if scaler is None or not scaler.is_enabled():
        return None
    if not (folder / file_names.SCALER).exists():
        raise AccelnbError(
            f"{folder} was saved without mixed_precision=fp16, and has no state for its scaler: "
            "load it with the precision it was saved with"
        )
    state = read(file_names.SCALER)
    if not isinstance(state, dict) or not scaler.state_dict().keys() <= state.keys():
        raise AccelnbError(f"{folder / file_names.SCALER} holds no state of a scaler")
    return state
