"""How batches come to a device, and what is done there between two of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from accelnb.devices import records
from accelnb.training.pytree import recursively_apply, send_to_device


class Placement(NamedTuple):
    """What a loader does with each batch.

    Attributes
    ----------
    place : callable or None
        Returns the batch on the device. None if it stays where it is.
    follow : callable or None
        Called when the loop asks for the next batch. None if nothing is to be done.
    """

    place: Callable[[Any], Any] | None
    follow: Callable[[], None] | None


def placement(device: torch.device | None, non_blocking: bool) -> Placement:
    """Return how batches come to `device`.

    Examples
    --------
    >>> import torch
    >>> from accelnb.training.data.device_placement import placement
    >>> placement(torch.device("meta"), non_blocking=False).place([torch.ones(2)])
    [tensor(..., device='meta', size=(2,))]
    """
    if device is None:
        return Placement(None, None)
    place = functools.partial(send_to_device, device=device, non_blocking=non_blocking)
    if not records(device.type):
        return Placement(place, None)
    return _of_torch_xla(place, device)


def _of_torch_xla(place: Callable[[Any], Any], device: torch.device) -> Placement:
    """Return how torch_xla takes batches: what was recorded of one begins before the next is read.

    The device so computes while the next batch is read and sent. In SPMD each of its devices gets
    a part of every batch.
    """
    import torch_xla  # pyright: ignore[reportMissingImports]

    if not torch_xla.runtime.is_spmd():
        return Placement(place, torch_xla.sync)
    shard = functools.partial(_sharded, mesh=_all_devices(), device=device)
    return Placement(lambda batch: place(recursively_apply(shard, batch)), torch_xla.sync)


def _all_devices() -> Any:
    """Return all devices of SPMD in one dimension, which divides samples."""
    import numpy
    from torch_xla import runtime  # pyright: ignore[reportMissingImports]
    from torch_xla.distributed import spmd  # pyright: ignore[reportMissingImports]

    count = runtime.global_runtime_device_count()
    return spmd.Mesh(numpy.arange(count), (count,), ("data",))


def _sharded(tensor: torch.Tensor, mesh: Any, device: torch.device) -> torch.Tensor:
    """Return a tensor of which each device of the mesh has the samples that are its part."""
    if tensor.ndim == 0 or tensor.device.type != "cpu":
        return tensor
    from torch_xla.core import xla_model  # pyright: ignore[reportMissingImports]
    from torch_xla.distributed import spmd  # pyright: ignore[reportMissingImports]

    rest = (None,) * (tensor.ndim - 1)
    (sent,) = xla_model.send_cpu_data_to_device(
        [tensor], device, spmd.ShardingSpec(mesh, ("data", *rest))
    )
    return sent
