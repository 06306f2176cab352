"""On the devices of torch_xla: operations are recorded, and done together when a step is.

DDP hooks into each gradient as it is computed, which nothing is here before the step. So models are
not wrapped: their gradients are averaged by one collective before the optimizer uses them, which
becomes a part of the step's program.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from accelnb.devices import DEVICES
from accelnb.errors import AccelnbError
from accelnb.training import communication
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.plan import Plan
from accelnb.training.parallel.strategy import Strategy, is_sharded

_EQUAL = "_accelnb_made_equal"  # a mark on models


def apply_equal_weights(model: nn.Module, mesh: Mesh, plan: Plan) -> nn.Module:
    """Give a model the weights that it has on rank 0, as DDP does when it wraps one."""
    import torch_xla

    torch_xla.sync()  # what only some ranks have recorded must not be in one program with it
    with torch.no_grad():
        for tensor in itertools.chain(model.parameters(), model.buffers()):
            tensor.copy_(communication.broadcast(tensor, from_process=0))
    torch_xla.sync()
    vars(model)[_EQUAL] = True
    return model


class XlaProcess(Strategy):
    """Train on what torch_xla gives this process: a device, or several as one (SPMD).

    Raises
    ------
    AccelnbError
        torch_xla was imported too late in this process.
    """

    def __init__(self) -> None:
        from torch_xla import runtime

        # Torch counts the devices once, in the first backward pass; this connects to them.
        runtime.global_runtime_device_count()
        try:
            torch.ones(1, device="xla", requires_grad=True).sum().backward()  # only recorded
        except RuntimeError as error:
            if "device_ready_queues_" not in str(error):
                raise
            raise AccelnbError(
                "torch computed gradients in this process before torch_xla was imported, and so "
                "cannot on its device: start anew, and import torch_xla or make the Accelerator "
                "first"
            ) from None

    def state_dict(self, model: nn.Module) -> dict[str, Any]:
        if is_sharded(model):
            return super().state_dict(model)
        return model.state_dict(keep_vars=True)  # tied ones are one object until they are detached

    def step(self, optimizer: torch.optim.Optimizer, closure: Callable[[], Any] | None) -> Any:
        import torch_xla

        result = optimizer.step(closure)
        torch_xla.sync()
        return result


class XlaProcesses(XlaProcess):
    """Train one model on several processes of torch_xla, each with a device of its own.

    Parameters
    ----------
    num_processes
        How many were launched.

    Raises
    ------
    AccelnbError
        The devices of the processes are not connected, or objects cannot go between them.
    """

    averages = averages_late = True
    apply = staticmethod(apply_equal_weights)

    def __init__(self, num_processes: int) -> None:
        super().__init__()
        from torch_xla import runtime

        if (connected := runtime.world_size()) != num_processes:
            raise AccelnbError(
                f"{num_processes} processes were launched, and torch_xla connects {connected}: its "
                "collectives would leave out the others, and on its CPU device they always do. "
                "Start the processes on a TPU, or use one (--procs 1)"
            )
        needed, found = DEVICES["xla"].backend, dist.get_backend()
        if found != needed:
            raise AccelnbError(
                f"the process group has backend {found}, which cannot send both objects and what "
                f"is on the device: leave it to Accelerator(), or make it with backend {needed}"
            )
        self._num_processes = num_processes
        self._averaged: set[int] = set()  # optimizers, by id, since the last backward pass
        self._local: Counter[int] = Counter()  # parameters in no_sync, by id

    @classmethod
    def on(cls, mesh: Mesh, plan: Plan) -> Strategy:
        return cls(mesh.size)

    def has_wrapped(self, model: nn.Module) -> bool:
        return _EQUAL in vars(model)

    def release(self, model: nn.Module) -> None:
        vars(model).pop(_EQUAL, None)

    @contextmanager
    def no_sync(self, model: nn.Module) -> Iterator[None]:
        own = Counter(id(parameter) for parameter in model.parameters())
        self._local += own
        try:
            yield
        finally:
            self._local -= own

    def began_backward(self) -> None:
        self._averaged.clear()

    def average_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        if id(optimizer) in self._averaged:
            return
        parameters = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        chosen = [p.grad.detach() for p in parameters if id(p) not in self._local]
        if len(chosen) == len(parameters):
            self._averaged.add(id(optimizer))
        if not chosen:
            return
        from torch_xla.core import xla_model

        scale = 1.0 / self._num_processes
        # As torch.distributed does with this device: one program cannot have both kinds of layout,
        # and there may be a `gather` in the step.
        xla_model.all_reduce(xla_model.REDUCE_SUM, chosen, scale=scale, pin_layout=False)

    def step(self, optimizer: torch.optim.Optimizer, closure: Callable[[], Any] | None) -> Any:
        if closure is None:
            self.average_gradients(optimizer)
            result = super().step(optimizer, None)
            self._averaged.discard(id(optimizer))  # also if no accelerator.backward comes
            return result

        def averaged() -> Any:
            loss = closure()
            self._averaged.discard(id(optimizer))
            self.average_gradients(optimizer)
            return loss

        return super().step(optimizer, averaged)

    def join(self, joinables: Sequence[Any], enable: bool) -> AbstractContextManager[Any]:
        if enable:
            raise AccelnbError(
                "join_uneven_inputs: on TPUs every process runs the same program, also for its "
                "last batch: leave even_batches=True"
            )
        return super().join(joinables, enable)
