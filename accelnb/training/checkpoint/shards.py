"""A model's weights in files of bounded size, for inference and for sharing."""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.checkpoint import file_names
from accelnb.training.checkpoint.files import (
    first_line,
    flush,
    load_weights,
    write,
    writes_here,
)
from accelnb.training.checkpoint.parts import read_parts, reads_parts
from accelnb.training.checkpoint.weights import (
    clean_state_dict_for_safetensors,
    differences,
    merged_names,
    read_safetensors,
    shapes_in,
    shapes_of,
)
from accelnb.training.collective_errors import together

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B", re.IGNORECASE)
_INDEX = ".index.json"


def size_in_bytes(size: int | str) -> int:
    """Return the number of bytes that ``"5MB"``, ``"1GiB"`` or a number says.

    Examples
    --------
    >>> from accelnb.training.checkpoint.shards import size_in_bytes
    >>> size_in_bytes("5MB"), size_in_bytes("1KiB"), size_in_bytes(300)
    (5000000, 1024, 300)
    """
    if isinstance(size, int) and size > 0:
        return size
    found = _SIZE.fullmatch(str(size).strip())
    if found is None or float(found[1]) == 0:
        raise AccelnbError(f"max_shard_size={size}: give a size like '5MB' or '10GB', or bytes")
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** " KMGT".index(found[2].upper() or " "))


def split(state: Mapping[str, torch.Tensor], limit: int) -> list[list[str]]:
    """Return the names of the tensors of each file, in order; a large one is alone in its own.

    Examples
    --------
    >>> import torch
    >>> from accelnb.training.checkpoint.shards import split
    >>> split({"a": torch.ones(2), "b": torch.ones(1), "c": torch.ones(9)}, limit=12)
    [['a', 'b'], ['c']]
    """
    shards: list[list[str]] = [[]]
    held = 0
    for name, tensor in state.items():
        if shards[-1] and held + tensor.nbytes > limit:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += tensor.nbytes
    return shards


def save_model(
    model: nn.Module,
    weights_of: Callable[[nn.Module], dict[str, Any]],
    save_directory: str | os.PathLike[str],
    max_shard_size: int | str,
    safe_serialization: bool,
    on_each_machine: bool,
) -> None:
    """Save a model's weights, from the main process or one of each machine. A collective."""
    if any(parameter.is_meta for parameter in model.parameters()):
        raise AccelnbError(
            f"this {type(model).__name__} has parameters without values (meta device), and "
            "cannot be saved"
        )
    state = weights_of(model)
    folder = Path(save_directory).expanduser()

    def write_here() -> None:
        if writes_here(on_each_machine):
            write_model(state, folder, max_shard_size, safe_serialization)

    together(write_here)


def write_model(
    state: Mapping[str, Any], folder: Path, max_shard_size: int | str, safe_serialization: bool
) -> None:
    """Write a state dict into a folder, and delete the weights of an earlier save there.

    Every file is complete before any has its name.
    """
    limit = size_in_bytes(max_shard_size)
    name = file_names.MODEL if safe_serialization else file_names.MODEL_PICKLED
    merged = merged_names(state)
    if safe_serialization:
        clean_state_dict_for_safetensors(state)  # refuses what cannot be saved
    tensors = {k: v for k, v in state.items() if isinstance(v, torch.Tensor) and k not in merged}
    shards = split(tensors, limit)
    shards[0] += [k for k, value in state.items() if not isinstance(value, torch.Tensor)]
    files = _named(name, shards)
    parts = {
        file: {k: state[k] for k in state if merged.get(k, k) in set(shard)}
        for file, shard in files.items()
    }
    if folder.exists() and not folder.is_dir():
        raise AccelnbError(f"save_directory={folder}: is a file; give a folder")
    new = folder / f".{name}.saving"
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        for file, part in parts.items():
            write(part, new / file)
        if len(files) > 1:
            left_out = merged if safe_serialization else {}
            where = {k: file for file, part in parts.items() for k in part if k not in left_out}
            _write_index(new / (name + _INDEX), where, sum(t.nbytes for t in tensors.values()))
        for path in list(new.iterdir()):
            os.replace(path, folder / path.name)
        _delete_others(folder, name, {*files, *([name + _INDEX] if len(files) > 1 else [])})
        flush(folder)
    except OSError as error:
        raise AccelnbError(f"cannot write into {folder}: {first_line(error)}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _named(name: str, shards: list[list[str]]) -> dict[str, list[str]]:
    if len(shards) == 1:
        return {name: shards[0]}
    stem, _, ending = name.partition(".")
    total = len(shards)
    return {f"{stem}-{i + 1:05d}-of-{total:05d}.{ending}": shard for i, shard in enumerate(shards)}


def _write_index(path: Path, where: dict[str, str], total: int) -> None:
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    path.write_text(json.dumps(index, indent=2) + "\n")
    flush(path)


def _delete_others(folder: Path, name: str, wanted: set[str]) -> None:
    """Delete an earlier save's files of the same format that are not those of this one."""
    stem, _, ending = name.partition(".")
    shard = re.compile(rf"{stem}-\d{{5}}-of-\d{{5}}\.{ending}")
    for entry in list(folder.iterdir()):
        earlier = entry.name in (name, name + _INDEX) or shard.fullmatch(entry.name)
        if earlier and entry.name not in wanted:
            entry.unlink()


# ---- reading ----


def load_checkpoint_in_model(
    model: nn.Module, checkpoint: str | os.PathLike[str], strict: bool = False
) -> None:
    """Load the weights that `Accelerator.save_model` or Hugging Face's libraries saved.

    All are checked before the model is changed. One file at a time is in memory. Of a model that
    is divided over processes, or without values (on the meta device), each process reads its part
    alone: it is a collective then.

    Parameters
    ----------
    checkpoint
        A file, an index (``model.safetensors.index.json``), or a folder that holds one.
    strict
        Refuse weights that are missing or not in the model. Otherwise that is a warning.

    Raises
    ------
    AccelnbError
        There are no weights, they are damaged, or of another model.

    Examples
    --------
    >>> import tempfile, torch
    >>> from accelnb import Accelerator
    >>> from accelnb.utils import load_checkpoint_in_model
    >>> folder = tempfile.mkdtemp()
    >>> Accelerator().save_model(torch.nn.Linear(2, 1), folder)
    >>> load_checkpoint_in_model(torch.nn.Linear(2, 1), folder, strict=True)
    """
    in_parts = reads_parts(model)

    def checked() -> tuple[list[Path], dict[str, Any], str]:
        files = files_of(Path(checkpoint).expanduser())
        shapes: dict[str, Any] = {}
        for file in files:
            shapes |= _shapes_in(file)
        fatal, other = differences(model, shapes, strict)
        if fatal:
            raise AccelnbError(f"{checkpoint} is not of this {type(model).__name__}: {fatal}")
        return files, shapes, other

    files, shapes, other = together(checked) if in_parts else checked()
    if other:
        warnings.warn(f"{checkpoint}: {other}", stacklevel=2)
    if in_parts:
        read_parts(model, files, shapes)
        return
    for file in files:
        model.load_state_dict(weights_in(file), strict=False)


def _shapes_in(file: Path) -> dict[str, Any]:
    if file.suffix != ".safetensors":
        return shapes_of(weights_in(file, "meta"))
    shapes, merged = shapes_in(file)
    return shapes | {name: shapes[kept] for name, kept in merged.items()}


def weights_in(file: Path, location: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the state dict that a file of either format holds."""
    if file.suffix == ".safetensors":
        return read_safetensors(file, location)
    return load_weights(file, location)


def files_of(checkpoint: Path) -> list[Path]:
    if checkpoint.is_file():
        return _indexed(checkpoint) if checkpoint.suffix == ".json" else [checkpoint]
    for name in (file_names.MODEL, file_names.MODEL_PICKLED):
        if (checkpoint / name).is_file():
            return [checkpoint / name]
        if (checkpoint / (name + _INDEX)).is_file():
            return _indexed(checkpoint / (name + _INDEX))
    raise AccelnbError(
        f"{checkpoint} is no file and no folder with {file_names.MODEL}, "
        f"{file_names.MODEL_PICKLED} or the index of one"
    )


def _indexed(index: Path) -> list[Path]:
    try:
        weight_map = json.loads(index.read_text())["weight_map"]
        return [index.parent / file for file in sorted(set(weight_map.values()))]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise AccelnbError(f"{index} is no index of weights") from None
