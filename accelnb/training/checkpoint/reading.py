"""A checkpoint read and checked whole, before anything of the training is changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
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
from accelnb.training.checkpoint.contents import Training, kind_of
from accelnb.training.checkpoint.files import in_place, load
from accelnb.training.checkpoint.manifest import Manifest, check_complete
from accelnb.training.checkpoint.reading_parts import skeleton
from accelnb.training.checkpoint.weights import differences
from accelnb.training.checkpoint.weights_sources import sources_in
from accelnb.training.parallel.slices import class_name

Pairs = list[tuple[Any, Any]]  # an object and the state for it

# States that common optimizers keep for each element of a parameter.
_ELEMENTWISE = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "sum")


@dataclass
class States:
    """Everything of a checkpoint but the models' weights, for one rank.

    Of what is divided over ranks there are tensors without values until `read_parts`.
    """

    optimizers: Pairs
    schedulers: Pairs
    loaders: Pairs
    custom: Pairs
    scaler: dict[str, Any] | None
    rng: dict[str, Any] | None
    gradients: Any | None
    step: int
    dropped: int = 0  # batches of an accumulation whose gradients are of another layout


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

    def pairs(things: Sequence[Any], name: str) -> Pairs:
        _check_number(folder, name, len(things))
        return [(x, read(file_names.numbered(name, i))) for i, x in enumerate(things)]

    def optimizer_state(optimizer: Any, index: int) -> Any:
        name = file_names.numbered(file_names.OPTIMIZER, index)
        if (accelerates := file_names.optimizer_folder(folder, index)).is_dir():
            return skeleton(accelerates, file_names.OPTIMIZER_KEY)
        if parameter_names.is_sharded(optimizer):  # of a whole state each rank takes its part
            return load(folder / name, **{**in_place(folder / name), **load_kwargs})
        return read(name, location)

    _check_number(folder, file_names.OPTIMIZER, len(training.optimizers))
    optimizers = [(x, optimizer_state(x, i)) for i, x in enumerate(training.optimizers)]
    schedulers = pairs(training.schedulers, file_names.SCHEDULER)
    for kind, found in (("optimizer", optimizers), ("scheduler", schedulers)):
        _check_kinds(folder, kind, found, manifest)

    origin = Origin.of(manifest, training)
    rng = None
    if origin.rank is not None and (folder / file_names.random_states(origin.rank)).exists():
        own = folder / file_names.random_states(origin.rank)
        rng = read(own.name)
        rng_states.check(rng, own)
    step = manifest.step if manifest else (rng or {}).get("step", 0)
    gradients, goes_on = None, origin.as_many_ranks
    gradients_file = file_names.gradients(training.process.process_index)
    if goes_on and (folder / gradients_file).exists():
        gradients = read(gradients_file)
        goes_on = unfinished_gradients.fits(gradients, training.models)
    unfinished = step % training.gradients.num_steps
    if manifest and manifest.by_one and unfinished:
        ranks = range(manifest.num_processes)
        goes_on = goes_on and all((folder / file_names.gradients(r)).exists() for r in ranks)
    return States(
        optimizers=optimizers,
        schedulers=schedulers,
        loaders=_read_loaders(training, folder, read, origin),
        custom=pairs(training.custom, file_names.CUSTOM),
        scaler=_read_scaler(training.scaler, folder, read),
        rng=rng,
        gradients=gradients if goes_on else None,
        step=step if goes_on or not unfinished else 0,
        dropped=0 if goes_on else unfinished,
    )


@dataclass
class Origin:
    """Which rank of the training that was saved this one goes on from.

    Attributes
    ----------
    rank : int or None
        It itself where the ranks are as they were, otherwise the first one that computed on the
        same share of the data; None if there was none.
    as_many_ranks, as_many_shares : bool
        Whether there are as many as there were.
    """

    rank: int | None
    as_many_ranks: bool
    as_many_shares: bool

    @classmethod
    def of(cls, manifest: Manifest | None, training: Training) -> Origin:
        process, mesh = training.process, training.mesh
        shares = mesh.shares_of(process.num_processes)
        if manifest is None:  # one of Accelerate's: nothing says how it was
            return cls(process.process_index, True, True)
        saved = manifest.shares or list(range(manifest.num_processes))
        if saved == shares:
            return cls(process.process_index, True, True)
        share = mesh.data_share
        return cls(
            saved.index(share) if share in saved else None,
            len(saved) == len(shares),
            max(saved) == max(shares),
        )


def check_optimizers(training: Training, optimizers: Pairs, folder: Path) -> None:
    """Compare the states of optimizers with the parameters that they have here.

    Raises
    ------
    AccelnbError
        They are of another model.
    """
    for index, (optimizer, state) in enumerate(optimizers):
        path = folder / file_names.numbered(file_names.OPTIMIZER, index)
        names = parameter_names.names_of(optimizer, training.models)
        state = parameter_names.by_number(state, names, optimizer, str(path))
        check_optimizer(path, optimizer, state)


def read_weights(
    models: list[nn.Module], folder: Path, location: torch.device, strict: bool
) -> list[tuple[nn.Module, dict[str, Any]]]:
    """Read the weights of unwrapped models; of sharded ones this rank's parts. No collective.

    Raises
    ------
    AccelnbError
        They are missing, damaged, or of other models.
    """
    sources = sources_in(folder)
    if models and len(sources) != len(models):
        raise AccelnbError(
            f"{folder} has weights of {len(sources)} models, and {len(models)} are here"
        )
    read = []
    for source, model in zip(sources, models, strict=False):
        fatal, _ = differences(model, source.shapes_for(model), strict)
        if fatal:
            raise AccelnbError(f"{source.path} is not of this {class_name(model)}: {fatal}")
        read.append((model, source.read_for(model, location)))
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


def check_optimizer(path: Path, optimizer: Any, state: Any) -> None:
    """Compare the state of one optimizer, by number, with its parameters here."""
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
    training: Training, folder: Path, read: Callable[[str], Any], origin: Origin
) -> Pairs:
    loaders = [(i, x) for i, x in enumerate(training.loaders) if hasattr(x, "state_dict")]
    _check_number(folder, file_names.LOADER, len(loaders))
    found = []
    for index, loader in loaders:
        name = file_names.loader_of_rank(index, origin.rank or 0)
        if not origin.as_many_shares or not (folder / name).exists():
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
