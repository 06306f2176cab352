"""DistributedDataParallel: every process has the whole model, gradients are averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.distributed.algorithms.join import Join, Joinable
from torch.nn.parallel import DistributedDataParallel

from accelnb.errors import AccelnbError
from accelnb.training.configuration import DistributedDataParallelKwargs
from accelnb.training.enums import DDPCommunicationHookType as Hook
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.plan import Plan
from accelnb.training.parallel.quantized import share_quantized
from accelnb.training.parallel.strategy import Strategy, is_sharded

# Along these processes have the whole model, and gradients of samples or tokens of their own.
_OF_COPIES = ("dp_replicate", "cp", "sp")


def apply_ddp(model: nn.Module, mesh: Mesh, plan: Plan) -> nn.Module:
    """Wrap a model in DDP, with its options and communication hooks.

    Raises
    ------
    AccelnbError
        DDP cannot wrap it, or has no such hook.
    """
    if _is_frozen(model):
        return model  # frozen: DDP refuses it, and there is nothing to average
    if isinstance(model, DistributedDataParallel):
        raise AccelnbError(
            "the model is a DistributedDataParallel already: give prepare() the model itself"
        )
    if is_sharded(model):
        raise AccelnbError(
            "the model is sharded already (its weights are DTensors), which DDP cannot wrap: "
            "choose strategy none, as in %%distributed --strategy none"
        )
    share_quantized(model, mesh.group(*_OF_COPIES))
    index = mesh.device.index
    wrapped = DistributedDataParallel(
        model,
        device_ids=None if index is None else [index],
        process_group=mesh.group(*_OF_COPIES),
        **plan.ddp.to_kwargs(),
    )
    _register_hook(wrapped, plan.ddp)
    vars(wrapped)["_handler"] = plan.ddp
    return wrapped


@dataclass
class DataParallel(Strategy):
    """Models are wrapped by DDP, which averages gradients while the backward pass runs."""

    mesh: Mesh
    handler: DistributedDataParallelKwargs

    averages = True
    apply = staticmethod(apply_ddp)

    @classmethod
    def on(cls, mesh: Mesh, plan: Plan) -> Strategy:
        return cls(mesh, plan.ddp)

    def has_wrapped(self, model: nn.Module) -> bool:
        if not isinstance(model, DistributedDataParallel):
            return _is_frozen(model)
        # After an interrupt the process group may be a new one.
        same_group = model.process_group is self.mesh.group(*_OF_COPIES)
        return same_group and model.__dict__.get("_handler") == self.handler

    def release(self, model: nn.Module) -> None:
        if isinstance(model, DistributedDataParallel):  # it may live on: in a traceback, say
            model._remove_autograd_hooks()

    def no_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    @contextmanager
    def trigger_sync(self, model: nn.Module) -> Iterator[None]:
        if not isinstance(model, DistributedDataParallel):
            yield
            return
        before = model.require_backward_grad_sync, model.require_forward_param_sync
        model.require_backward_grad_sync = model.require_forward_param_sync = True
        # What a forward pass outside of no_sync would have told the reducer.
        model.reducer.prepare_for_backward([])
        try:
            yield
        finally:
            model.require_backward_grad_sync, model.require_forward_param_sync = before

    def join(self, joinables: Sequence[Any], enable: bool) -> AbstractContextManager[Any]:
        # A plain model (frozen, a moving average) does nothing that the others could wait in.
        taking_part = [
            it for it in joinables if isinstance(it, Joinable) or not isinstance(it, nn.Module)
        ]
        if not taking_part:
            return nullcontext()
        return Join(taking_part, enable=enable, throw_on_early_termination=False)


def _is_frozen(model: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in model.parameters())


def _register_hook(model: DistributedDataParallel, handler: DistributedDataParallelKwargs) -> None:
    if handler.comm_hook == Hook.NO:
        return
    hooks: dict[str, Callable[..., Any]] = {
        Hook.FP16: default_hooks.fp16_compress_hook,
        Hook.BF16: _to_bf16,
        Hook.POWER_SGD: powerSGD_hook.powerSGD_hook,
        Hook.BATCHED_POWER_SGD: powerSGD_hook.batched_powerSGD_hook,
    }
    wrappers: dict[str, Callable[..., Any]] = {
        Hook.NO: lambda hook: hook,
        Hook.FP16: default_hooks.fp16_compress_wrapper,
        Hook.BF16: _bf16_around,
    }
    if handler.comm_wrapper not in wrappers:
        raise AccelnbError(f"comm_wrapper={handler.comm_wrapper}: choose one of no, fp16, bf16")
    if handler.comm_hook == Hook.BATCHED_POWER_SGD:
        _check_batched_power_sgd()
    state = None
    if handler.comm_hook in (Hook.POWER_SGD, Hook.BATCHED_POWER_SGD):
        state = powerSGD_hook.PowerSGDState(None, **handler.comm_state_option)
    model.register_comm_hook(state, wrappers[handler.comm_wrapper](hooks[handler.comm_hook]))


def _check_batched_power_sgd() -> None:
    try:
        powerSGD_hook._orthogonalize(torch.eye(2))
    except AssertionError:  # the hook hands it a matrix and it takes only batches of matrices
        raise AccelnbError(
            f"comm_hook=batched_power_sgd: the hook of torch {torch.__version__} fails at every "
            "gradient; use power_sgd"
        ) from None


# DDP takes torch's bf16 hooks by their names to need nccl; gloo reduces bf16 as well. It also
# reads a hook's annotations, and takes none that are text.
def _to_bf16(state, bucket):
    return default_hooks.bf16_compress_hook(state, bucket)


def _bf16_around(hook: Callable[..., Any]) -> Callable[..., Any]:
    compressed = default_hooks.bf16_compress_wrapper(hook)

    def around(state, bucket):
        return compressed(state, bucket)

    return around
