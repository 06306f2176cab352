"""How much memory a model may take of each device."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accelnb.big_model.dtypes import Dtype
from accelnb.big_model.errors import BigModelError
from accelnb.big_model.places import accelerator
from accelnb.big_model.sizes import (
    Classes,
    Dtypes,
    class_names,
    compute_module_sizes,
    convert_file_size_to_int,
)
from accelnb.devices import Device
from accelnb.devices.hardware import usable_resources

Budget = dict[int | str, int]

_OTHERS = ("mps", "cpu", "disk")  # after the accelerators, which are numbers
_OF_ONE = 0.9  # what a model may take of a single accelerator, which computes too


def get_max_memory(max_memory: Mapping[int | str, int | str] | None = None) -> Budget:
    """Return what is free on each accelerator and on the CPU, or a given choice in bytes.

    Accelerators come first. Where one shares the machine's memory, it is there alone.

    Raises
    ------
    BigModelError
        Something is no device, or no size.

    Examples
    --------
    >>> from accelnb.utils import get_max_memory
    >>> get_max_memory({"cpu": "1GiB"})
    {'cpu': 1073741824}
    >>> get_max_memory()["cpu"] > 0
    True
    """
    if max_memory is None:
        return _free_memory()
    for name in max_memory:
        if not isinstance(name, int) and name not in _OTHERS:
            raise BigModelError(
                f"max_memory: {name!r} is no device: name accelerators by their numbers, and "
                "'mps', 'cpu', 'disk'"
            )
    numbers = sorted(name for name in max_memory if isinstance(name, int))
    if absent := [number for number in numbers if not 0 <= number < _count(accelerator())]:
        warnings.warn(f"max_memory: torch sees no accelerator {absent} here", stacklevel=2)
    names = [*numbers, *(name for name in _OTHERS if name in max_memory)]
    return {name: convert_file_size_to_int(max_memory[name]) for name in names}


def _free_memory() -> Budget:
    import psutil

    # The first knows what a container allows, the second systems other than Linux.
    machine = usable_resources.memory(Path("/")).free
    machine = min(machine, psutil.virtual_memory().available)
    kind = accelerator()
    if kind is not None and kind.type == "mps":
        return {"mps": machine}
    free: Budget = {}
    shared = False
    if kind is not None and hasattr(kind.module, "mem_get_info"):
        for number in range(_count(kind)):
            try:
                torch.empty(1, device=torch.device(kind.type, number))  # else it is no one's yet
                free[number] = kind.module.mem_get_info(number)[0]
            except RuntimeError as error:
                warnings.warn(f"{kind.title} {number} is left out: {error}", stacklevel=3)
                continue
            shared = shared or _shares_memory(kind, number)
    return free if shared else {**free, "cpu": machine}


def _shares_memory(kind: Device, number: int) -> bool:
    if not hasattr(kind.module, "get_device_properties"):
        return False
    properties: Any = kind.module.get_device_properties(number)
    return bool(getattr(properties, "is_integrated", False))


def _count(kind: Device | None) -> int:
    return 0 if kind is None else kind.module.device_count()


def get_balanced_memory(
    model: nn.Module,
    max_memory: Mapping[int | str, int | str] | None = None,
    no_split_module_classes: Classes = None,
    dtype: str | Dtype | None = None,
    special_dtypes: Dtypes = None,
    low_zero: bool = False,
) -> Budget:
    """Return how much `infer_auto_device_map` may take of each device to use all alike.

    The last accelerator keeps all that it has, so that nothing is left over for the CPU.

    Parameters
    ----------
    max_memory
        By default what is free; of a single accelerator nine tenths.
    no_split_module_classes
        Classes of modules that stay on one device.
    dtype, special_dtypes
        What the weights, or single ones by name, will be converted to.
    low_zero
        As little as possible on the first, which has other work then.

    Examples
    --------
    >>> import warnings
    >>> from torch import nn
    >>> from accelnb.utils import get_balanced_memory
    >>> warnings.simplefilter("ignore")  # of accelerators that are not there
    >>> layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    >>> get_balanced_memory(layers, {0: 1000, 1: 1000})
    {0: 220, 1: 1000}
    """
    budget = get_max_memory(max_memory)
    numbers = [name for name in budget if isinstance(name, int) and budget[name] > 0]
    count = len(numbers) + (budget.get("mps", 0) > 0)
    if count == 0:
        return budget
    if count == 1:
        if max_memory is None and numbers:
            budget[numbers[0]] = int(budget[numbers[0]] * _OF_ONE)
        return budget
    sizes = compute_module_sizes(model, dtype=dtype, special_dtypes=special_dtypes)
    share = sizes[""] // (count - low_zero) + _leeway(model, sizes, no_split_module_classes)
    for number in numbers[low_zero:-1]:
        budget[number] = min(share, budget[number])
    if low_zero:
        first, *others = numbers
        left_over = max(0, sizes[""] - sum(budget[number] for number in others))
        budget[first] = min(left_over, budget[first])
    return budget


def _leeway(model: nn.Module, sizes: Mapping[str, int], no_split: Classes) -> int:
    """Return what a device gets beside its share, for layers do not fill it exactly."""
    whole = class_names(no_split)
    blocks = [
        sizes.get(name, 0)
        for name, module in model.named_modules()
        if name and type(module).__name__ in whole
    ]
    modules = sizes.keys() - _ends(sizes.keys())  # the ends are parameters and buffers
    layers = _ends(modules)
    mean = int(sum(sizes[name] for name in layers) / max(len(layers), 1))
    return int(1.25 * max([*blocks, mean]))


def _ends(names: Any) -> set[str]:
    """Return the names that are not the beginning of another."""
    parents = {name.rpartition(".")[0] for name in names}
    return {name for name in names if name and name not in parents}
