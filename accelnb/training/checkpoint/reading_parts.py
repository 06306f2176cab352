"""What is divided over ranks in the states of a checkpoint, read: each rank its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from accelnb.training.checkpoint import file_names, parameter_names
from accelnb.training.checkpoint.contents import Training
from accelnb.training.checkpoint.dtensors import Tensors, fitted, mapped, room_for
from accelnb.training.dtensors import is_dtensor

Pairs = list[tuple[Any, Any]]  # an object and the state for it


def skeleton(folder: Path, key: str) -> Any:
    """Return a structure that a folder of parts holds, with tensors without values in it."""
    from accelnb.training.checkpoint import sharded  # slow to import

    return sharded.skeleton(folder, key)


def with_parts(training: Training, optimizers: Pairs, custom: Pairs, folder: Path) -> list[Pairs]:
    """Return states of optimizers by number, and of objects of the user, with their values.

    Of whole tensors each rank takes its part. No collective.

    Raises
    ------
    AccelnbError
        A folder of parts is damaged, or lacks some.
    """
    reading = _Reading()
    named: Pairs = []
    for index, (optimizer, state) in enumerate(optimizers):
        names = parameter_names.names_of(optimizer, training.models)
        named.append(
            (optimizer, reading.of_optimizer(state, optimizer, names, *_place(folder, index)))
        )
    objects: Pairs = []
    for index, (thing, state) in enumerate(custom):
        key, own = file_names.key(file_names.CUSTOM, index), {}
        mapped(thing.state_dict(), key, own.__setitem__)
        objects.append((thing, reading.of(state, folder / file_names.SHARDED, key, own.get)))
    reading.read()
    return [
        [
            (o, reading.by_number(state, o, parameter_names.names_of(o, training.models), folder))
            for o, state in named
        ],
        [(thing, reading.fitted(state)) for thing, state in objects],
    ]


def with_parts_of_optimizer(
    optimizer: Any, names: list[str], state: Any, folder: Path, key: str
) -> Any:
    """Return the state of one optimizer by number, with its values; see `with_parts`."""
    reading = _Reading()
    state = reading.of_optimizer(state, optimizer, names, folder, key)
    reading.read()
    return reading.by_number(state, optimizer, names, folder)


def _always(like: Any) -> Callable[[str], Any]:
    return lambda _: like


def _place(folder: Path, index: int) -> tuple[Path, str]:
    """Return the folder that has the parts of an optimizer, and how their names begin there."""
    accelerates = file_names.optimizer_folder(folder, index)
    if accelerates.is_dir():
        return accelerates, file_names.OPTIMIZER_KEY
    return folder / file_names.SHARDED, file_names.key(file_names.OPTIMIZER, index)


@dataclass
class _Reading:
    """Tensors that are to be read, all at once, and the tensors that they belong to."""

    wanted: dict[Path, Tensors] = field(default_factory=dict)
    likes: dict[int, tuple[torch.Tensor, Any]] = field(default_factory=dict)

    def of(
        self,
        state: Any,
        folder: Path,
        key: str,
        like_of: Callable[[str], Any],
        is_in_place: bool = False,
    ) -> Any:
        """Return a structure with tensors to read into, and none that are in a file."""

        def room(path: str, value: torch.Tensor) -> torch.Tensor:
            like = like_of(path)
            if value.is_meta:
                value = room_for(value.shape, value.dtype, like)
                self.wanted.setdefault(folder, {})[path] = value
            elif is_in_place and not is_dtensor(like):
                value = value.clone()
            self.likes[id(value)] = value, like
            return value

        return mapped(state, key, room)

    def of_optimizer(
        self, state: Any, optimizer: Any, names: list[str], folder: Path, key: str
    ) -> Any:
        """Return the state of an optimizer with tensors to read into."""
        parameters = parameter_names.parameters_of(optimizer)
        owners = {**dict(enumerate(parameters)), **dict(zip(names, parameters, strict=True))}
        is_in_place = parameter_names.is_sharded(optimizer)
        values = {
            name: self.of(
                value, folder, f"{key}.state.{name}", _always(owners.get(name)), is_in_place
            )
            for name, value in state["state"].items()
        }
        return {**state, "state": values}

    def by_number(self, state: Any, optimizer: Any, names: list[str], folder: Path) -> Any:
        """Return the state of an optimizer with values, and with its own numbers."""
        state = {**state, "state": self.fitted(state["state"])}
        return parameter_names.by_number(state, names, optimizer, str(folder))

    def read(self) -> None:
        for folder, tensors in self.wanted.items():
            from accelnb.training.checkpoint.sharded import read_into  # slow to import

            read_into(folder, tensors)

    def fitted(self, state: Any) -> Any:
        """Return a structure with each tensor divided as the one that it belongs to."""
        return mapped(state, "", lambda _, value: fitted(value, self.likes[id(value)][1]))
