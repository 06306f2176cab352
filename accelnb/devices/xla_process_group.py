"""A process group for ranks on torch_xla: gloo for tensors on the CPU, xla for those on the device.

torch_xla's own group takes the place of the whole default group, also of the gloo that was asked
for beside it. Collectives on CPU tensors then do nothing or fail, and a barrier does not wait.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

BACKEND = "xla_gloo"
_TAKE_TENSORS = (
    "allreduce", "broadcast", "allgather", "_allgather_base", "allgather_coalesced", "reduce",
    "gather", "scatter", "reduce_scatter", "_reduce_scatter_base", "reduce_scatter_coalesced",
    "alltoall", "alltoall_base", "send", "recv",
)  # fmt: skip


def register() -> None:
    """Teach torch.distributed this backend, once in a process; torch_xla has to be there."""
    if BACKEND in dist.Backend.backend_list:
        return
    from torch_xla import runtime  # pyright: ignore[reportMissingImports]
    from torch_xla.distributed.xla_backend import (  # pyright: ignore[reportMissingImports]
        ProcessGroupXla,
    )

    kind = _beside_gloo(ProcessGroupXla)

    def create(store: dist.Store, rank: int, size: int, timeout: timedelta) -> Any:
        if runtime.is_spmd():  # one process drives all devices: nothing goes between ranks
            return _gloo(store, rank, size, timeout)
        return kind(store, rank, size, timeout)

    dist.Backend.register_backend(BACKEND, create, devices=["cpu", "xla"])


def _beside_gloo(base: Any) -> Any:
    """Return torch_xla's kind of process group with a gloo for what is on the CPU."""

    class GlooAndXla(base):
        def __init__(self, store: dist.Store, rank: int, size: int, timeout: timedelta) -> None:
            super().__init__(store, rank, size, timeout)
            self.gloo = _gloo(store, rank, size, timeout)

        def getBackendName(self) -> str:
            return BACKEND

        def barrier(self, opts: Any) -> Any:
            return self.gloo.barrier(opts)

        def _get_sequence_number_for_group(self) -> int:
            return self.gloo._get_sequence_number_for_group()

    for name in _TAKE_TENSORS:
        setattr(GlooAndXla, name, _by_device(getattr(base, name)))
    return GlooAndXla


def _by_device(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return `method` of the xla group, given to gloo where the tensors are on the CPU."""

    @functools.wraps(method)
    def chosen(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _on_cpu(args):
            return getattr(self.gloo, method.__name__)(*args, **kwargs)
        return method(self, *args, **kwargs)

    return chosen


def _on_cpu(values: Sequence[Any]) -> bool:
    """Return whether the first tensor in nested sequences is on the CPU."""
    for value in values:
        if isinstance(value, torch.Tensor):
            return value.device.type == "cpu"
        if isinstance(value, (list, tuple)) and value:
            return _on_cpu(value)
    return False


def _gloo(store: dist.Store, rank: int, size: int, timeout: timedelta) -> Any:
    gloo = dist.ProcessGroupGloo(dist.PrefixStore("gloo", store), rank, size, timeout)
    gloo._set_sequence_number_for_group()
    return gloo
