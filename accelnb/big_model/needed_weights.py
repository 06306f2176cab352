"""What a module needs from elsewhere for its forward pass, and how it is read."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from accelnb.big_model.pages import read_in
from accelnb.big_model.places import Place, as_device
from accelnb.big_model.weights_maps import OffloadedWeightsLoader, PrefixedDataset

# Less is read as fast as another thread is asked for it.
_WORTH_FETCHING = 1 << 20

# Where copies go on beside what is computed, each in a stream of its own.
_WITH_STREAMS = ("cuda", "xpu")

# Others, of bitsandbytes say, become something else on their way to a device.
_PLAIN = (torch.Tensor, nn.Parameter)

# They read a few rows of their weight: on the CPU it stays in its file, but for these.
_LOOK_UP = (nn.Embedding, nn.EmbeddingBag)

WeightsMap = Mapping[str, torch.Tensor]


def lies_in_memory(weights: WeightsMap | None, name: str) -> bool:
    """Return whether a mapping holds a weight itself, rather than reading it when it is asked."""
    if isinstance(weights, PrefixedDataset):
        return lies_in_memory(weights.dataset, f"{weights.prefix}{name}")
    if isinstance(weights, OffloadedWeightsLoader):
        return name in weights.state_dict
    return isinstance(weights, dict)


def _can_be_read_beside(weights: Any) -> bool:
    """Return whether two threads may read a mapping at a time, which one of a user's may not."""
    while isinstance(weights, PrefixedDataset):
        weights = weights.dataset
    return isinstance(weights, OffloadedWeightsLoader | dict)


@dataclass(frozen=True, eq=False)
class NeededWeights:
    """The weights that a module gets for its forward pass and that are worth being fetched ahead.

    Attributes
    ----------
    weights_map : mapping
        Where they are.
    names : tuple of str
        What they are called there.
    device : torch.device
        Where they go.
    nbytes : int
        What they take there.
    """

    weights_map: WeightsMap
    names: tuple[str, ...]
    device: torch.device
    nbytes: int

    @classmethod
    def of(
        cls,
        module: nn.Module,
        weights: WeightsMap,
        missing: Mapping[str, torch.Tensor],
        place: Place,
    ) -> NeededWeights:
        """Return what is worth it of a module's missing weights."""
        device = as_device(place)
        names: tuple[str, ...] = ()
        if device.type == "cpu":
            if not isinstance(module, _LOOK_UP):
                names = tuple(name for name in missing if not lies_in_memory(weights, name))
        elif device.type in _WITH_STREAMS:
            names = tuple(name for name in missing if type(missing[name]) in _PLAIN)
        if not _can_be_read_beside(weights):
            names = ()
        nbytes = sum(missing[name].nbytes for name in names)
        if nbytes < _WORTH_FETCHING:
            names, nbytes = (), 0
        return cls(weights, names, device, nbytes)

    def is_as(self, other: NeededWeights) -> bool:
        """Return whether what was fetched for the one will do for the other."""
        return (
            self.weights_map is other.weights_map
            and self.names == other.names
            and self.device == other.device
        )

    def read(self) -> dict[str, torch.Tensor]:
        """Return the weights where the module computes; called in any thread."""
        with torch.no_grad():
            values = {name: self.weights_map[name] for name in self.names}
            if self.device.type == "cpu":
                for value in values.values():
                    read_in(value)
                return values
            of_device = torch.get_device_module(self.device)
            with of_device.stream(_stream(self.device)):
                return {name: value.to(self.device) for name, value in values.items()}

    def received(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the weights that were read, for the stream that computes with them."""
        if self.device.type != "cpu" and values:
            current = torch.get_device_module(self.device).current_stream(self.device)
            for value in values.values():
                value.record_stream(current)
        return values


@functools.cache
def _stream(device: torch.device) -> Any:
    """Return the stream of copies to a device: one, for each has memory of its own."""
    return torch.get_device_module(device).Stream(device)
