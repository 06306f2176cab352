"""Local SGD: ranks train alone for some steps, then average what they have learned."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, cast

import torch
import torch.distributed as dist

from accelnb.errors import AccelnbError
from accelnb.training.dtensors import has_dtensors
from accelnb.training.enums import DistributedType
from accelnb.training.process_control import ProcessControl

# With these DDP averages the gradients, and its `no_sync` leaves that out.
_SUPPORTED = {DistributedType.NO, *(t for t in DistributedType if t.startswith("MULTI_"))}


class LocalSGD:
    """A block in which ranks do not average gradients, but parameters, every few steps.

    It communicates less, for a result that is not quite that of averaging at every step
    (https://arxiv.org/abs/1805.09767). At the end of the block the parameters are averaged once
    more, unless it failed.

    Parameters
    ----------
    accelerator
        The one that prepared the model.
    model
        A prepared model. Sharded models cannot be trained so.
    local_sgd_steps
        Calls of `step` between averages.
    enabled
        If False, gradients are averaged at every step as usual.

    Raises
    ------
    AccelnbError
        `local_sgd_steps` is below 1, or the model is not one that DDP wraps.

    Examples
    --------
    >>> import torch
    >>> from accelnb import Accelerator
    >>> from accelnb.training.local_sgd import LocalSGD
    >>> accelerator = Accelerator()
    >>> model = accelerator.prepare(torch.nn.Linear(2, 1))
    >>> optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=0.1))
    >>> with LocalSGD(accelerator, model, local_sgd_steps=8) as local_sgd:
    ...     for _ in range(16):
    ...         accelerator.backward(model(torch.ones(1, 2)).sum())
    ...         optimizer.step()
    ...         optimizer.zero_grad()
    ...         local_sgd.step()
    """

    def __init__(
        self,
        accelerator: ProcessControl,
        model: torch.nn.Module,
        local_sgd_steps: int,
        enabled: bool = True,
    ) -> None:
        if local_sgd_steps < 1:
            raise AccelnbError(f"local_sgd_steps={local_sgd_steps}: must be at least 1")
        kind = accelerator.distributed_type
        if has_dtensors(model.parameters()):
            raise AccelnbError(
                "LocalSGD: this model is sharded, and no process has weights of its own that could "
                "be averaged: use it with DDP"
            )
        mesh = getattr(accelerator, "mesh", None)
        if mesh is not None and mesh.has("cp", "sp"):
            raise AccelnbError(
                "LocalSGD: ranks along cp or sp have parts of the same sequences, and no gradients "
                "of their own: use it with DDP"
            )
        if kind not in _SUPPORTED:
            raise AccelnbError(f"LocalSGD does not work with {kind}: use it with DDP")
        self.enabled = enabled and accelerator.use_distributed
        if self.enabled and not hasattr(model, "no_sync"):
            raise AccelnbError(
                f"LocalSGD: this {type(model).__name__} is not wrapped by DDP; pass the model "
                "that prepare() returned"
            )
        self.model = model
        self.local_sgd_steps = local_sgd_steps
        self.num_steps = 0
        self._num_processes = accelerator.num_processes
        self._alone: AbstractContextManager[Any] | None = None

    def __enter__(self) -> LocalSGD:
        if self.enabled:
            alone: AbstractContextManager[Any] = cast(Any, self.model).no_sync()
            alone.__enter__()
            self._alone = alone
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if self._alone is None:
            return
        self._alone.__exit__(kind, error, traceback)
        self._alone = None
        if error is None:
            self._average_parameters()

    def step(self) -> None:
        """Count a step; average the parameters if it is time."""
        self.num_steps += 1
        if self.enabled and self.num_steps % self.local_sgd_steps == 0:
            self._average_parameters()

    @torch.no_grad()
    def _average_parameters(self) -> None:
        pending = []
        for parameter in self.model.parameters():
            if parameter.is_floating_point():  # integers are quantized weights: equal on all ranks
                value = parameter.data.div_(self._num_processes)  # first: a sum may overflow fp16
                pending.append(dist.all_reduce(value, async_op=True))
        for work in pending:
            if work is not None:
                work.wait()
