"""A folder of ``torch.distributed.checkpoint``: each rank writes its parts, and reads its own.

Import it where DTensors are: torch.distributed.checkpoint is slow to import.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from accelnb.errors import AccelnbError
from accelnb.training.checkpoint.files import first_line, last_line, size_free
from accelnb.training.collective_errors import of_every_rank, together
from accelnb.training.dtensors import is_dtensor

METADATA = ".metadata"
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


class Writing:
    """The parts that this rank writes of a folder.

    Parameters
    ----------
    named
        What belongs to each model, optimizer ..., by the name of that: DTensors, of which this
        rank has parts; everything else is written by the first rank.
    aliases
        Further names of tensors: "model.head.weight" for "model.embedding.weight", say.
    writers
        The ranks that write into the folder, which is one for each disk.

    Raises
    ------
    AccelnbError
        What these ranks have together is not the whole. Every rank raises it.
    """

    def __init__(
        self,
        named: Mapping[str, Any],
        aliases: Mapping[str, str],
        folder: Path,
        writers: list[int],
        rank: int,
    ) -> None:
        self._aliases = dict(aliases)
        self._is_first = rank == writers[0]
        self._storage = dcp.FileSystemWriter(folder, overwrite=True)
        self._planner = _SavePlanner()
        self._folder = folder

        def plan_mine() -> Any:
            mine = dict(named) if self._is_first else _divided_only(named)
            self._planner.set_up_planner(mine, None, self._is_first)
            return self._storage.prepare_local_plan(self._planner.create_local_plan())

        plans = of_every_rank(together(plan_mine))

        def plan_all() -> Any:
            together_here = [plans[writer] for writer in writers]
            try:
                all_plans, metadata = self._planner.create_global_plan(together_here)
            except ValueError as error:
                if len(writers) == len(plans):
                    raise AccelnbError(f"the parts of all ranks make no whole: {error}") from None
                raise AccelnbError(
                    f"{folder.parent}: these ranks do not see the disk of the others and have only "
                    "parts of the model: save into a folder that all ranks share"
                ) from None
            mine = self._storage.prepare_global_plan(all_plans)[writers.index(rank)]
            return self._planner.finish_plan(mine), metadata

        self._plan, self._metadata = together(plan_all)

    def hold(self) -> None:
        """Copy what is to be written, which training may then change."""
        held: dict[Any, torch.Tensor] = {}
        for item in self._plan.items:
            held[item.index] = self._planner.lookup_object(item.index).to("cpu", copy=True)
        self._planner.held = held

    def write(self) -> list[Any]:
        """Write this rank's parts; return what `complete` is to know of them. No collective."""
        try:
            return self._storage.write_data(self._plan, self._planner).wait()
        except (OSError, RuntimeError) as error:  # torch: RuntimeError on a full disk
            raise AccelnbError(
                f"cannot write into {self._folder}: {first_line(error)} "
                f"({size_free(self._folder)} free)"
            ) from error
        finally:
            self._planner.held = {}

    def complete(self, written: list[list[Any]]) -> None:
        """Describe what all ranks have written, on the first."""
        if not self._is_first:
            return
        for alias, name in self._aliases.items():
            self._metadata.state_dict_metadata[alias] = self._metadata.state_dict_metadata[name]
            head, _, rest = alias.partition(".")
            self._metadata.planner_data[alias] = (head, rest)
        names: dict[str, list[str]] = {}
        for alias, name in self._aliases.items():
            names.setdefault(name, []).append(alias)
        results = [
            dataclasses.replace(result, index=dataclasses.replace(result.index, fqn=name))
            for part in written
            for result in part
            for name in (result.index.fqn, *names.get(result.index.fqn, ()))
        ]
        self._storage.finish(self._metadata, [results])


def _divided_only(state: Mapping[str, Any]) -> dict[str, Any]:
    inner = {k: _divided_only(v) if isinstance(v, Mapping) else v for k, v in state.items()}
    return {k: v for k, v in inner.items() if isinstance(v, Mapping) or is_dtensor(v)}


class _SavePlanner(DefaultSavePlanner):
    """Writes what is held instead of what training has."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[Any, torch.Tensor] = {}

    def lookup_object(self, index: Any) -> Any:
        return self.held[index] if index in self.held else super().lookup_object(index)


# ---- reading ----


def described(folder: Path) -> Metadata:
    """Return the description of what is in a folder, running no code that is in it.

    Raises
    ------
    AccelnbError
        It is missing, damaged, or would run code.
    """
    path = folder / METADATA
    try:
        with path.open("rb") as file:
            found = _PlainUnpickler(file).load()
        if not isinstance(found, Metadata) or found.storage_data is None:
            raise ValueError("it is no description of a checkpoint")
        return found
    except FileNotFoundError:
        raise AccelnbError(f"{path} is missing; use another checkpoint") from None
    except AccelnbError as error:
        raise AccelnbError(
            f"{path} holds a {error}, which no checkpoint needs: it is not read"
        ) from None
    except Exception as error:  # unpickling damaged bytes can raise anything
        raise AccelnbError(
            f"{path} cannot be read, it seems damaged: {first_line(error)}"
        ) from None


def tensors_in(metadata: Metadata) -> dict[str, TensorStorageMetadata]:
    """Return the tensors that a folder holds, by their full names."""
    return {
        name: entry
        for name, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }


def skeleton(folder: Path, key: str) -> Any:
    """Return the structure that was saved under a name, with tensors without values in it.

    Raises
    ------
    AccelnbError
        There is none, or the folder is damaged.
    """
    metadata = described(folder)
    paths = {k: path for k, path in (metadata.planner_data or {}).items() if path[0] == key}
    if not paths:
        raise AccelnbError(f"{folder} holds nothing at {key}")
    tensors = tensors_in(metadata)
    found: dict[str, Any] = {
        name: torch.empty(tensors[name].size, dtype=tensors[name].properties.dtype, device="meta")
        if name in tensors
        else io.BytesIO()
        for name in paths
    }
    objects = {name: value for name, value in found.items() if name not in tensors}
    read_into(folder, objects)
    state: dict[str, Any] = {}
    for name, path in paths.items():
        set_element(state, path, objects.get(name, found[name]))
    return state[key]


def read_into(folder: Path, wanted: dict[str, Any]) -> None:
    """Read tensors by their full names into those given, each its parts. No collective.

    In the place of anything else in `wanted` comes what was saved.

    Raises
    ------
    AccelnbError
        The folder is damaged, or lacks something.
    """
    if not wanted:
        return
    described(folder)
    with _as_one_line(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that this is a single process
        dcp.load(
            wanted,
            storage_reader=dcp.FileSystemReader(folder),
            planner=_LoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
            no_dist=True,
        )


class _LoadPlanner(DefaultLoadPlanner):
    """Reads objects that are no tensors without running what is in them."""

    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        name = read_item.dest_index.fqn
        self.original_state_dict[name] = torch.load(value, weights_only=True)


@contextlib.contextmanager
def _as_one_line(folder: Path):
    try:
        yield
    except AccelnbError:
        raise
    except (Exception, CheckpointException) as error:  # of many kinds for a missing or cut file
        failures = getattr(error, "failures", {})
        for failure, _ in failures.values():
            error = failure
        raise AccelnbError(
            f"{folder} cannot be read, it seems damaged: {last_line(error)}"
        ) from error


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
