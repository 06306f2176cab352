"""A sharded checkpoint made one: the weights of all ranks as safetensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from accelnb.errors import AccelnbError
from accelnb.training.checkpoint import reading_weights
from accelnb.training.checkpoint.files import replace_file
from accelnb.training.checkpoint.sharded import METADATA, described, read_into, tensors_in
from accelnb.training.checkpoint.writing_weights import Weights, write_in_turn, write_weights
from accelnb.training.pytree import TensorInformation

_OTHER_FILES = (".bin", ".pt", ".pth", ".ckpt")  # that somebody may expect to get
_OF_TRAINING = ("optim", "optimizer", "optimizers", "scheduler", "lr_scheduler", "dataloader")


def merge_weights(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    key: str | None = None,
    max_shard_size: int | str = "10GB",
    force: bool = False,
    safe: bool = True,
) -> int:
    """Write the weights of a sharded checkpoint as safetensors; return how many tensors.

    Parameters
    ----------
    checkpoint
        A folder of ``torch.distributed.checkpoint``, also one in an Accelerate checkpoint; or
        safetensors in several files, as ``Accelerator.save_model`` writes them.
    output
        A file that ends in ``.safetensors``, or a folder for files of bounded size.
    key
        Where the weights are in the checkpoint, such as ``model``. By default ``model`` if there
        is one, otherwise all tensors but the optimizer's.
    force
        Replace what is there.
    safe
        If not, as ``pytorch_model.bin`` in a folder.

    Raises
    ------
    AccelnbError
        It is no such checkpoint, or the weights cannot be written. Nothing was changed.

    Examples
    --------
    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from accelnb import Accelerator
    >>> from accelnb.training.checkpoint.merging import merge_weights
    >>> folder = Path(tempfile.mkdtemp())
    >>> Accelerator().save_model(torch.nn.Linear(2, 1), folder / "parts", max_shard_size=8)
    >>> merge_weights(folder / "parts", folder / "model.safetensors")
    2
    """
    source, target = Path(checkpoint), Path(output)
    if target.suffix in _OTHER_FILES:
        raise AccelnbError(f"{target}: give a name that ends in .safetensors, or a folder")
    if not force and _is_there(target):
        raise AccelnbError(f"{target} is there already: give another name, or --force")
    folder = _sharded_folder(source)
    weights = _of_dcp(folder, key) if folder else _of_files(source, key)
    if not weights.tensors:
        raise AccelnbError(f"{source} holds no tensors")
    if target.suffix == ".safetensors":
        if not target.resolve().parent.is_dir():
            raise AccelnbError(f"{target} cannot be written: there is no such folder")
        names = list(weights.tensors)
        replace_file(target.resolve(), lambda path: write_in_turn(weights, names, path))
    else:
        write_weights(weights, target, max_shard_size, safe)
    return len(weights.tensors) + len(weights.merged)


def _is_there(target: Path) -> bool:
    return target.is_file() or (target.is_dir() and any(target.glob("*.safetensors*")))


def _sharded_folder(source: Path) -> Path | None:
    """Return the folder of torch.distributed.checkpoint: the given one, or the one model in it."""
    if (source / METADATA).is_file():
        return source
    below = sorted(path.parent for path in source.glob(f"*/{METADATA}"))
    models = [folder for folder in below if "optim" not in folder.name]
    if len(models) > 1:
        names = ", ".join(str(folder) for folder in models)
        raise AccelnbError(f"{source} holds several checkpoints: give one of {names}")
    return models[0] if models else None


def _of_files(source: Path, key: str | None) -> Weights:
    if not source.exists():
        raise AccelnbError(f"{source}: no such checkpoint")
    if any(source.glob("*.distcp")):
        raise AccelnbError(
            f"{source} has parts (*.distcp) but no {METADATA}, which is written last: copy all of "
            "the folder, or take an older checkpoint if the save was cut off"
        )
    state: dict[str, torch.Tensor] = {}
    for file in reading_weights.files_of(source):
        state |= reading_weights.weights_in(file)
    return Weights.of_state(_below(state, key, source) if key else state)


def _of_dcp(folder: Path, key: str | None) -> Weights:
    """Return the weights in a folder of torch.distributed.checkpoint, read when they are taken."""
    metadata = described(folder)
    found = tensors_in(metadata)
    wanted = _weights(found, metadata.planner_data or {}, key, folder)
    entries = {name: found[there] for name, there in wanted.items()}
    first: dict[int, str] = {}
    kept = {name: first.setdefault(id(entry), name) for name, entry in entries.items()}

    def take(names: list[str]) -> dict[str, torch.Tensor]:
        read = {
            name: torch.empty(entries[name].size, dtype=entries[name].properties.dtype)
            for name in names
        }
        read_into(folder, {wanted[name]: tensor for name, tensor in read.items()})
        return read

    tensors = {
        name: TensorInformation(entry.size, entry.properties.dtype)
        for name, entry in entries.items()
        if kept[name] == name
    }
    return Weights(tensors, take, {name: kept[name] for name in entries if kept[name] != name})


def _weights(
    found: Mapping[str, Any], paths: Mapping[str, Any], key: str | None, folder: Path
) -> dict[str, str]:
    """Return the names of the tensors to be read: in the model, and there."""
    heads = {name: str(paths[name][0]) if paths.get(name) else name for name in found}
    if key is None and "model" in heads.values():
        key = "model"
    if key is not None:
        return _below({name: name for name in found}, key, folder)
    return {name: name for name in found if heads[name] not in _OF_TRAINING}


def _below(state: Mapping[str, Any], key: str, source: Path) -> dict[str, Any]:
    start = f"{key}."
    found = {name[len(start) :]: value for name, value in state.items() if name.startswith(start)}
    if not found:
        heads = ", ".join(sorted({name.partition(".")[0] for name in state})[:8])
        raise AccelnbError(f"{source} holds nothing at {key}; it has {heads}")
    return found
