"""Whether the values that there are make up a model, whose linear layers are to be quantized."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from accelnb.big_model.errors import BigModelError
from accelnb.big_model.module_tensors import get_non_persistent_buffers
from accelnb.big_model.quantization.layers import Layers
from accelnb.big_model.quantization.left_out import linear_layers
from accelnb.big_model.quantization.sources import Value, Values, named_slots
from accelnb.training.parallel.meta_start.without_values import some


class Fitting:
    """Which value each tensor of a model gets, and which layers are quantized.

    Attributes
    ----------
    quantized : dict
        All names of each layer that is quantized, by its first.
    """

    def __init__(
        self, model: nn.Module, layers: Layers, left_out: Iterable[str], values: Values
    ) -> None:
        self._model = model
        self._layers = layers
        self._values = values
        self._same = _groups(named_slots(model))
        of_layers = _groups(linear_layers(model, left_out).items())
        self.quantized = {names[0]: names for names in of_layers.values()}

    def value_of(self, name: str) -> Value | None:
        """Return the value of a tensor, which may be there under the name of one tied to it."""
        return next((self._values[n] for n in self._same[name] if n in self._values), None)

    def is_tied(self, name: str) -> bool:
        return len(self._same[name]) > 1

    def statistics_of(self, layer: str) -> dict[str, Value]:
        """Return what belongs to the weight of a layer that is quantized already, if it is."""
        names = self._layers.statistics(layer, self._values)
        return {name: self._values[name] for name in names}

    def check(self) -> None:
        """See that there are values for all of the model, and that they fit.

        Raises
        ------
        BigModelError
            They do not.
        """
        not_saved = get_non_persistent_buffers(self._model, recurse=True, fqns=True)
        missing: list[str] = []
        wrong: list[str] = []
        for name, tensor in named_slots(self._model):
            value = self.value_of(name)
            if value is not None:
                wrong += self._misfit(name, tensor, value)
            elif tensor.is_meta or name not in not_saved:
                missing.append(name)
        if missing:
            wrong.insert(0, f"there is no {some(missing)}")
        if wrong:
            raise BigModelError(
                f"the weights are not of this {type(self._model).__name__}: {'; '.join(wrong[:3])}"
            )

    def _misfit(self, name: str, tensor: torch.Tensor, value: Value) -> list[str]:
        layer, _, key = name.rpartition(".")
        is_quantized = key == "weight" and any(layer in names for names in self.quantized.values())
        if is_quantized and self.statistics_of(layer):
            return []  # in fewer bits it may have another shape
        if tensor.is_floating_point() and not value.is_floating:
            how = "in another way" if is_quantized else "and shall not be"
            return [f"{name} is quantized already, {how}"]
        if value.shape != tuple(tensor.shape):
            return [f"{name} is {list(value.shape)} there and {list(tensor.shape)} in the model"]
        return []

    def unused(self) -> list[str]:
        """Return the names of the values that the model has no place for."""
        used = set(self._same) | {
            name for layer in self.quantized for name in self.statistics_of(layer)
        }
        formats = {f"{layer}.weight_format" for layer in self.quantized}  # of 8 bits, of old
        return [name for name in self._values if name not in used | formats]


def _groups(named: Iterable[tuple[str, Any]]) -> dict[str, list[str]]:
    """Return for each name all names of the object that it stands for."""
    names: dict[int, list[str]] = {}
    return {name: _added(names.setdefault(id(it), []), name) for name, it in named}


def _added(names: list[str], name: str) -> list[str]:
    names.append(name)
    return names
