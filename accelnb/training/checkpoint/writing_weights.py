"""A model's weights written in files of bounded size, one file after the other.

Of a sharded model no more of them is in memory than a few at a time (in files that are not of
safetensors: those of one file), on the process that writes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.checkpoint import file_names
from accelnb.training.checkpoint.contents import is_divided, parts_of
from accelnb.training.checkpoint.dtensors import gathered
from accelnb.training.checkpoint.files import first_line, flush, reporting, write, writes_here
from accelnb.training.checkpoint.safetensors_file import SafetensorsFile, in_order
from accelnb.training.checkpoint.weights import is_plain, merged_names, refuse_objects
from accelnb.training.collective_errors import attempt, together
from accelnb.training.pytree import TensorInformation

INDEX = ".index.json"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B", re.IGNORECASE)

# So many bytes are taken at once: little beside a model, much beside what each taking costs.
_AT_ONCE = 32 * 2**20

T = TypeVar("T")


def _alone(action: Callable[[], T]) -> T:
    return action()


def size_in_bytes(size: int | str) -> int:
    """Return the number of bytes that ``"5MB"``, ``"1GiB"`` or a number says.

    Examples
    --------
    >>> from accelnb.training.checkpoint.writing_weights import size_in_bytes
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


def split(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Return the names of the tensors of each file, in order; a large one is alone in its own.

    Parameters
    ----------
    sizes
        The tensors' numbers of bytes.

    Examples
    --------
    >>> from accelnb.training.checkpoint.writing_weights import split
    >>> split({"a": 8, "b": 4, "c": 36}, limit=12)
    [['a', 'b'], ['c']]
    """
    files: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if files[-1] and held + size > limit:
            files.append([])
            held = 0
        files[-1].append(name)
        held += size
    return files


@dataclass
class Weights:
    """What is to be written.

    Attributes
    ----------
    tensors : dict
        Shapes and types, by the names.
    take : callable
        Return the tensors of some names, each whole. A collective if they are divided.
    merged : dict
        Further names of tensors, with the name under which each is in `tensors`.
    objects : dict
        What is not a plain tensor.
    """

    tensors: dict[str, TensorInformation]
    take: Callable[[list[str]], Mapping[str, Any]]
    merged: dict[str, str] = field(default_factory=dict)
    objects: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_state(
        cls, state: Mapping[str, Any], take: Callable[[list[str]], Mapping[str, Any]] | None = None
    ) -> Weights:
        """Return those of a state dict; `take` makes its tensors whole."""
        merged = merged_names(state)
        tensors = {k: v for k, v in state.items() if is_plain(v)}
        kept = {k: TensorInformation(v.shape, v.dtype) for k, v in tensors.items()}
        objects = {name: value for name, value in state.items() if name not in tensors}
        return cls(
            {k: v for k, v in kept.items() if k not in merged},
            take or (lambda names: {name: state[name] for name in names}),
            merged,
            objects,
        )

    @property
    def sizes(self) -> dict[str, int]:
        """The numbers of bytes."""
        return {k: v.shape.numel() * v.dtype.itemsize for k, v in self.tensors.items()}


def save_model(
    model: nn.Module,
    weights_of: Callable[[nn.Module], dict[str, Any]],
    save_directory: str | os.PathLike[str],
    max_shard_size: int | str,
    safe_serialization: bool,
    on_each_machine: bool,
) -> None:
    """Save a model's weights, from the main process or one of each machine. A collective.

    Of a sharded model a few weights at a time are gathered: none has all of it.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        raise AccelnbError(
            f"this {type(model).__name__} has parameters without values (meta device), and "
            "cannot be saved"
        )
    writes = writes_here(on_each_machine)
    if is_divided(model):
        state = parts_of(model)
        weights = Weights.of_state(state, lambda names: _whole(state, names, writes))
    else:
        weights = Weights.of_state(weights_of(model))
    folder = Path(save_directory).expanduser()
    write_weights(weights, folder, max_shard_size, safe_serialization, writes, together)


def _whole(state: Mapping[str, Any], names: list[str], keep: bool) -> dict[str, Any]:
    return {name: gathered(state[name], keep) for name in names}


def write_weights(
    weights: Weights,
    folder: Path,
    max_shard_size: int | str,
    safe_serialization: bool,
    writes: bool = True,
    together: Callable[[Callable[[], Any]], Any] = _alone,
) -> None:
    """Write weights into a folder, and delete those of an earlier save there.

    Every file is complete before any has its name.

    Parameters
    ----------
    writes
        Whether this process does; every one calls this.
    together
        How processes agree that each has done a step.
    """
    name = file_names.MODEL if safe_serialization else file_names.MODEL_PICKLED
    new = folder / f".{name}.saving"

    def plan() -> dict[str, list[str]]:
        if safe_serialization:
            refuse_objects(weights.objects)
        files = _named(name, split(weights.sizes, size_in_bytes(max_shard_size)))
        if writes:
            if folder.exists() and not folder.is_dir():
                raise AccelnbError(f"save_directory={folder}: is a file; give a folder")
            shutil.rmtree(new, ignore_errors=True)
            _in_folder(folder, lambda: new.mkdir(parents=True))
        return files

    try:
        files = together(plan)
        for number, (file, names) in enumerate(files.items()):
            to = new / file
            if safe_serialization:
                write_in_turn(weights, names, to, writes, together)
                continue
            held = {**weights.take(names), **({} if number else weights.objects)}
            again = {k: held[kept] for k, kept in weights.merged.items() if kept in held}
            together(lambda part={**held, **again}, to=to: write(part, to) if writes else None)
            del held, again
        left_out = weights.merged if safe_serialization else {}
        where = {n: file for file, names in files.items() for n in names}
        where |= {k: where[kept] for k, kept in weights.merged.items() if k not in left_out}

        def put_in_place() -> None:
            if len(files) > 1:
                _write_index(new / (name + INDEX), where, sum(weights.sizes.values()))
            for path in list(new.iterdir()):
                os.replace(path, folder / path.name)
            _delete_others(folder, name, {*files, *([name + INDEX] if len(files) > 1 else [])})
            flush(folder)

        together(lambda: _in_folder(folder, put_in_place) if writes else None)
    finally:
        if writes:
            shutil.rmtree(new, ignore_errors=True)


def write_in_turn(
    weights: Weights,
    names: list[str],
    path: Path,
    writes: bool = True,
    together: Callable[[Callable[[], Any]], Any] = _alone,
) -> None:
    """Write a safetensors file tensor by tensor, whether `writes` is set here or on another rank.

    What is taken goes on to be taken after an error, for other ranks take part in it.
    """
    tensors = {name: weights.tensors[name] for name in names}
    merged = {again: kept for again, kept in weights.merged.items() if kept in tensors}

    def begun() -> SafetensorsFile | None:
        return SafetensorsFile(path, tensors, {"format": "pt", **merged}) if writes else None

    file, error = attempt(lambda: reporting(begun, path))
    sizes = {name: weights.sizes[name] for name in in_order(tensors)}
    for some in split(sizes, _AT_ONCE):
        for name, tensor in weights.take(some).items():
            if file is not None and error is None:
                _, error = attempt(partial(reporting, partial(file.add, name, tensor), path))
    if file is not None:
        _, at_the_end = attempt(lambda: reporting(file.close, path))
        error = error or at_the_end

    def tell() -> None:
        if error is not None:
            raise error

    together(tell)


def _in_folder(folder: Path, action: Callable[[], T]) -> T:
    try:
        return action()
    except OSError as error:
        raise AccelnbError(f"cannot write into {folder}: {first_line(error)}") from error


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
        earlier = entry.name in (name, name + INDEX) or shard.fullmatch(entry.name)
        if earlier and entry.name not in wanted:
            entry.unlink()
