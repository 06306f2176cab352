"""A device map that fills one device after the other."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping

from torch import nn

from accelnb.big_model.allocation import Allocation
from accelnb.big_model.device_maps import clean_device_map
from accelnb.big_model.dtypes import Dtype
from accelnb.big_model.max_memory import Budget, get_max_memory
from accelnb.big_model.sizes import Classes, Dtypes, class_names, compute_module_sizes
from accelnb.big_model.tied import warn_if_not_tied
from accelnb.training.checkpoint.weights import find_tied_parameters

logger = logging.getLogger(__name__)


def infer_auto_device_map(
    model: nn.Module,
    max_memory: Mapping[int | str, int | str] | None = None,
    no_split_module_classes: Classes = None,
    dtype: str | Dtype | None = None,
    special_dtypes: Dtypes = None,
    verbose: bool = False,
    clean_result: bool = True,
    offload_buffers: bool = False,
    fallback_allocation: bool = False,
) -> dict[str, int | str]:
    """Return a device for each part of a model: accelerators first, then the CPU, then the disk.

    No device gets more than its memory. The first accelerator keeps room for the largest layer of
    those that are offloaded, and so does the CPU for those on the disk. The model needs no values
    (see `init_empty_weights`).

    Parameters
    ----------
    max_memory
        Bytes, or texts such as ``"10GiB"``, of each device: ``{0: "10GiB", "cpu": "30GiB"}``. By
        default what is free.
    no_split_module_classes
        Classes of modules that stay on one device, as those with a residual connection.
    dtype, special_dtypes
        What the weights, or single ones by name, will be converted to.
    verbose
        Print each step.
    clean_result
        Have one entry for a module whose parts are all on one device.
    offload_buffers
        Buffers of offloaded modules are offloaded too. Otherwise a warning says if no accelerator
        has room for them.
    fallback_allocation
        Where nothing fits on a device in order, put any part there that does.

    Examples
    --------
    >>> from torch import nn
    >>> from accelnb.utils import infer_auto_device_map
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    >>> infer_auto_device_map(model, max_memory={"cpu": 50, "disk": "1MB"})
    {'0': 'cpu', '1': 'disk', '2': 'disk'}
    """
    memory = get_max_memory(max_memory)
    tied = find_tied_parameters(model)
    warn_if_not_tied(model, tied)
    sizes = compute_module_sizes(model, dtype=dtype, special_dtypes=special_dtypes)
    whole, say = class_names(no_split_module_classes), print if verbose else _say_nothing
    allocation = Allocation(model, memory, sizes, tied, whole, fallback_allocation, say)
    while not allocation.is_done:
        allocation.step()
    if not offload_buffers:
        buffers = compute_module_sizes(model, dtype, special_dtypes, buffers_only=True)
        _warn_of_buffers(allocation, memory, buffers)
    if allocation.too_small:
        logger.info(
            "nothing was put on some devices for insufficient memory; bytes that they would need: "
            "%s",
            allocation.too_small,
        )
    found = allocation.device_map
    return clean_device_map(found) if clean_result else found


def _warn_of_buffers(allocation: Allocation, memory: Budget, sizes: Mapping[str, int]) -> None:
    """Warn where the buffers of what is offloaded fit on no accelerator."""
    offloaded = [name for name, place in allocation.device_map.items() if place in ("cpu", "disk")]
    size = sum(sizes.get(name, 0) for name in offloaded)
    free = [memory[name] - allocation.used[name] for name in memory if name not in ("cpu", "disk")]
    if size and free and max(free) < size:
        warnings.warn(
            f"the buffers of offloaded layers, {size} bytes, fit on no accelerator: with "
            "offload_buffers=True they are offloaded too",
            stacklevel=3,
        )


def _say_nothing(_: str) -> None:
    pass
