"""A sharded checkpoint made one: the weights of all ranks as safetensors."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from accelnb.errors import AccelnbError
from accelnb.training.checkpoint import shards
from accelnb.training.checkpoint.files import first_line, last_line, replace_file, write_safetensors

_METADATA = ".metadata"
_OTHER_FILES = (".bin", ".pt", ".pth", ".ckpt")  # that somebody may expect to get
_OF_TRAINING = ("optim", "optimizer", "optimizers", "scheduler", "lr_scheduler", "dataloader")
# What the description of a checkpoint consists of; anything else in it would be code to run.
_PLAIN = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
_PLAIN_OF_TORCH = (torch.dtype, torch.memory_format, torch.layout)
_PLAIN_NAMES = frozenset(
    {
        ("builtins", "set"),
        ("collections", "OrderedDict"),
        ("pathlib", "PosixPath"),
        ("pathlib", "PurePosixPath"),
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),
    }
)


def merge_weights(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    key: str | None = None,
    max_shard_size: int | str = "10GB",
    force: bool = False,
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
    state = _of_dcp(folder, key) if folder else _of_files(source, key)
    if not state:
        raise AccelnbError(f"{source} holds no tensors")
    if target.suffix == ".safetensors":
        if not target.resolve().parent.is_dir():
            raise AccelnbError(f"{target} cannot be written: there is no such folder")
        replace_file(target.resolve(), lambda path: write_safetensors(state, path))
    else:
        shards.write_model(state, target, max_shard_size, True)
    return len(state)


def _is_there(target: Path) -> bool:
    return target.is_file() or (target.is_dir() and any(target.glob("*.safetensors*")))


def _sharded_folder(source: Path) -> Path | None:
    """Return the folder of torch.distributed.checkpoint: the given one, or the one model in it."""
    if (source / _METADATA).is_file():
        return source
    below = sorted(path.parent for path in source.glob(f"*/{_METADATA}"))
    models = [folder for folder in below if "optim" not in folder.name]
    if len(models) > 1:
        names = ", ".join(str(folder) for folder in models)
        raise AccelnbError(f"{source} holds several checkpoints: give one of {names}")
    return models[0] if models else None


def _of_files(source: Path, key: str | None) -> dict[str, torch.Tensor]:
    if not source.exists():
        raise AccelnbError(f"{source}: no such checkpoint")
    if any(source.glob("*.distcp")):
        raise AccelnbError(
            f"{source} has parts (*.distcp) but no {_METADATA}, which is written last: copy all of "
            "the folder, or take an older checkpoint if the save was cut off"
        )
    state: dict[str, torch.Tensor] = {}
    for file in shards.files_of(source):
        state |= shards.weights_in(file)
    return _below(state, key, source) if key else state


def _of_dcp(folder: Path, key: str | None) -> dict[str, torch.Tensor]:
    _check_plain(folder / _METADATA)
    reader = dcp.FileSystemReader(folder)
    try:
        metadata = reader.read_metadata()
        paths = metadata.planner_data or {}
        found = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        wanted = _weights(found, paths, key, folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that this is a single process
            dcp.load(dict(wanted.values()), storage_reader=reader, no_dist=True)
    except AccelnbError:
        raise
    except (Exception, CheckpointException) as error:  # of many kinds for a missing or cut file
        raise AccelnbError(
            f"{folder} cannot be read, it seems damaged: {last_line(error)}"
        ) from error
    return {name: tensor for name, (_, tensor) in wanted.items()}


def _weights(
    found: Mapping[str, torch.Tensor], paths: Mapping[str, Any], key: str | None, folder: Path
) -> dict[str, tuple[str, torch.Tensor]]:
    """Return the tensors to be read: their name in the model, their name there."""
    heads = {name: str(paths[name][0]) if paths.get(name) else name for name in found}
    if key is None and "model" in heads.values():
        key = "model"
    if key is not None:
        named = {name: name for name in found}
        return {short: (name, found[name]) for short, name in _below(named, key, folder).items()}
    return {
        name: (name, tensor) for name, tensor in found.items() if heads[name] not in _OF_TRAINING
    }


def _below(state: Mapping[str, Any], key: str, source: Path) -> dict[str, Any]:
    start = f"{key}."
    found = {name[len(start) :]: value for name, value in state.items() if name.startswith(start)}
    if not found:
        heads = ", ".join(sorted({name.partition(".")[0] for name in state})[:8])
        raise AccelnbError(f"{source} holds nothing at {key}; it has {heads}")
    return found


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if "." not in name:
            found = super().find_class(module, name)
            of_checkpoint = module in _PLAIN and isinstance(found, type)
            if (of_checkpoint and found.__module__ == module) or (module, name) in _PLAIN_NAMES:
                return found
            if module == "torch" and isinstance(found, _PLAIN_OF_TORCH):
                return found
        raise AccelnbError(f"{module}.{name}")


def _check_plain(path: Path) -> None:
    """Refuse a description that would run code: torch unpickles it unseen."""
    try:
        with path.open("rb") as file:
            _PlainUnpickler(file).load()
    except AccelnbError as error:
        raise AccelnbError(
            f"{path} holds a {error}, which no checkpoint needs: it is not read"
        ) from None
    except Exception as error:  # unpickling damaged bytes can raise anything
        raise AccelnbError(
            f"{path} cannot be read, it seems damaged: {first_line(error)}"
        ) from None
