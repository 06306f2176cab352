"""Device maps: on which device each part of a model is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, TypeVar

from torch import nn

from accelnb.big_model.errors import BigModelError
from accelnb.big_model.places import Place
from accelnb.training.parallel.meta_start.without_values import some

M = TypeVar("M", bound=MutableMapping[str, Any])


def place_of(device_map: Mapping[str, Place], name: str) -> Place:
    """Return where a device map puts a tensor or module: as it says of the smallest part.

    Raises
    ------
    BigModelError
        It says nothing of it.

    Examples
    --------
    >>> from accelnb.big_model.device_maps import place_of
    >>> place_of({"": "cpu", "layers.1": "disk"}, "layers.1.weight")
    'disk'
    """
    part = name
    while part not in device_map:
        if not part:
            raise BigModelError(f"the device map gives no device for {name}")
        part = part.rpartition(".")[0]
    return device_map[part]


def clean_device_map(device_map: M, module_name: str = "") -> M:
    """Put what a device map says of all parts of a module into one entry, where it is the same.

    It is changed in place.

    Examples
    --------
    >>> from accelnb.big_model.device_maps import clean_device_map
    >>> clean_device_map({"a.x": 0, "a.y": 0, "b": 1})
    {'b': 1, 'a': 0}
    """
    prefix = f"{module_name}." if module_name else ""
    inside = [name for name in device_map if name.startswith(prefix)]
    places = {device_map[name] for name in inside}
    if len(places) == 1 and len(inside) > 1:
        for name in inside:
            del device_map[name]
        device_map[module_name] = places.pop()
        return device_map
    children = dict.fromkeys(name[len(prefix) :].partition(".")[0] for name in inside)
    for child in children:
        if child:
            clean_device_map(device_map, prefix + child)
    return device_map


def check_device_map(model: nn.Module, device_map: Mapping[str, Place]) -> None:
    """Raise an error if a device map leaves out parts of a model; warn of names that it lacks.

    Examples
    --------
    >>> from torch import nn
    >>> from accelnb.utils import check_device_map
    >>> check_device_map(nn.Sequential(nn.Linear(2, 1), nn.Linear(2, 1)), {"0": "cpu", "1": 0})
    """
    state = model.state_dict(keep_vars=True)
    tensors = {name for name, _ in model.named_buffers()} | {*state}
    parts = {name for name, _ in model.named_modules()} | tensors
    if unknown := [name for name in device_map if name not in parts]:
        warnings.warn(
            f"device_map keys do not match any submodules in the model: {some(unknown)}",
            stacklevel=2,
        )
    if "" in device_map:
        return
    left_out = [name for name in state if not any(_is_in(name, part) for part in device_map)]
    if left_out:
        raise BigModelError(f"the device map gives no device for {some(left_out)}")


def _is_in(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def check_tied_parameters_on_same_device(
    tied_params: Sequence[Sequence[str]], device_map: Mapping[str, Place]
) -> None:
    """Warn of tied parameters that a device map puts on different devices.

    Parameters
    ----------
    tied_params
        Groups of names, as `find_tied_parameters` returns them.

    Examples
    --------
    >>> from accelnb.utils import check_tied_parameters_on_same_device
    >>> check_tied_parameters_on_same_device([["a.weight", "b.weight"]], {"": "cpu"})
    """
    for group in tied_params:
        places = {name: place_of(device_map, name) for name in group}
        if len(set(places.values())) > 1:
            warnings.warn(
                f"tied parameters are on different devices: {places}: put them on one, or use "
                "device_map='auto'",
                stacklevel=2,
            )
