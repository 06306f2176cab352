"""FSDP2: each process has a part of every weight, gathered only while a unit computes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from accelnb.errors import AccelnbError
from accelnb.training.enums import DDPCommunicationHookType
from accelnb.training.fsdp_plugin import FullyShardedDataParallelPlugin
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.output_views import forbid_changes
from accelnb.training.parallel.plan import Plan
from accelnb.training.parallel.strategy import Strategy
from accelnb.training.parallel.units import Unit, find_units, ignored_parameters
from accelnb.training.parallel.whole import refuse_copies
from accelnb.training.parallel.whole_parameters import AveragedGradients, make_equal

_MARK = "_accelnb_sharding"


@dataclass(frozen=True)
class Sharding:
    """How a model was sharded. Its root module has it."""

    plugin: FullyShardedDataParallelPlugin
    device_mesh: Any
    whole: AveragedGradients

    @classmethod
    def of(cls, model: nn.Module) -> Sharding | None:
        return vars(_root(model)).get(_MARK)


def check_sharding(model: nn.Module, mesh: Mesh, plan: Plan) -> None:
    """See that a model can be sharded, before it is changed in any way.

    Raises
    ------
    AccelnbError
        It cannot be sharded so.
    """
    if isinstance(model, DistributedDataParallel):
        raise AccelnbError(
            "the model is a DistributedDataParallel: give prepare() the model itself"
        )
    plugin = plan.fsdp or FullyShardedDataParallelPlugin()
    if plugin.needs_replicas and not mesh.has("dp_replicate"):
        raise AccelnbError(
            f"sharding_strategy={plugin.sharding_strategy.name}: it needs a mesh with copies, as "
            "--mesh dp_replicate=2,dp_shard=4"
        )
    for name, part in model.named_modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.sparse:
            raise AccelnbError(
                f"FSDP: {name} has sparse gradients, of which ranks cannot have parts: make it "
                "with sparse=False"
            )
    if not any(True for _ in sharded_parts(model)):
        find_units(_root(model), plugin, ignored_parameters(_root(model), plugin))


def apply_fsdp(model: nn.Module, mesh: Mesh, plan: Plan) -> nn.Module:
    """Shard a model over the processes of a mesh, or over groups of them that hold copies (HSDP).

    One that is sharded already is left as it is.
    """
    if any(True for _ in sharded_parts(model)):
        return model
    plugin = plan.fsdp or FullyShardedDataParallelPlugin()
    shard(model, mesh.fsdp_mesh, plugin)
    if plan.ddp.find_unused_parameters:
        for part in sharded_parts(model):
            part.set_reduce_scatter_unused_params(True, recurse=False)
    if plan.ddp.broadcast_buffers:
        _follow_running_statistics(_root(model), mesh.fsdp_mesh)
    return model


def shard(
    model: nn.Module, device_mesh: Any, plugin: FullyShardedDataParallelPlugin | None = None
) -> nn.Module:
    """Shard a model in place over a ``DeviceMesh`` of torch; return it.

    All processes of the mesh must call it. They begin with the weights of the first.

    Parameters
    ----------
    device_mesh
        With one dimension, or with two: weights are then sharded over the second, and copied
        over the first.

    Raises
    ------
    AccelnbError
        The plugin does not fit the model.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    plugin = plugin or FullyShardedDataParallelPlugin()
    root = _root(model)
    ignored = ignored_parameters(root, plugin)
    units = [*find_units(root, plugin, ignored), (root,)]
    for unit in units:
        _begin_as_the_first(unit, device_mesh, send=plugin.sync_module_states is not False)
        for part in unit:
            forbid_changes(part)
        fully_shard(
            list(unit) if len(unit) > 1 else unit[0],  # pyright: ignore[reportArgumentType]
            mesh=device_mesh,
            ignored_params=ignored,
            **_options(plugin, device_mesh, is_root=unit[0] is root),
        )
    if plugin.forward_prefetch:
        _prefetch_in_forward([(root,), *units[:-1]])
    if callable(getattr(type(root), "generate", None)):
        register_fsdp_forward_method(root, "generate")  # it may call parts of the model first
    refuse_copies(root)
    _begin_at_the_root(root)
    _reshard_after_evaluation(root)
    vars(root)[_MARK] = Sharding(plugin, device_mesh, AveragedGradients(ignored, device_mesh))
    return model


def sharded_parts(model: nn.Module) -> Iterator[Any]:
    """Yield the modules that ``fully_shard`` was called with."""
    from torch.distributed.fsdp import FSDPModule

    return (part for part in model.modules() if isinstance(part, FSDPModule))


@dataclass
class Sharded(Strategy):
    """Models are sharded by FSDP2, which averages gradients while the backward pass runs."""

    mesh: Mesh
    plugin: FullyShardedDataParallelPlugin

    averages = True
    shards = True
    apply = staticmethod(apply_fsdp)

    @classmethod
    def on(cls, mesh: Mesh, plan: Plan) -> Strategy:
        if plan.ddp.comm_hook != DDPCommunicationHookType.NO:
            raise AccelnbError(
                f"comm_hook={plan.ddp.comm_hook} compresses the gradients of DDP; with FSDP say "
                "FullyShardedDataParallelPlugin(mixed_precision_policy={'reduce_dtype': 'bf16'})"
            )
        return cls(mesh, plan.fsdp or FullyShardedDataParallelPlugin())

    def has_wrapped(self, model: nn.Module) -> bool:
        sharding = Sharding.of(model)
        if sharding is None:
            return any(True for _ in sharded_parts(model))
        return sharding.plugin == self.plugin and sharding.device_mesh == self.mesh.fsdp_mesh

    def release(self, model: nn.Module) -> None:
        if isinstance(model, DistributedDataParallel):
            model._remove_autograd_hooks()
        elif Sharding.of(model) is not None:
            raise AccelnbError(
                "this model is sharded in another way, which cannot be undone: make it anew, and "
                "give it the weights that get_state_dict() returns"
            )

    @contextmanager
    def _syncing(self, model: nn.Module, enabled: bool) -> Iterator[None]:
        sharding = Sharding.of(model)
        before = True if sharding is None else sharding.whole.enabled
        try:
            _set_sync(model, sharding, enabled)
            yield
        finally:
            _set_sync(model, sharding, before)

    def no_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        return self._syncing(model, enabled=False)

    def trigger_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        return self._syncing(model, enabled=True)

    def join(self, joinables: Sequence[Any], enable: bool) -> AbstractContextManager[Any]:
        if enable:
            raise AccelnbError(
                "join_uneven_inputs: with FSDP every process takes part in every forward pass: "
                "leave even_batches=True"
            )
        return nullcontext()


def _root(model: nn.Module) -> nn.Module:
    """Return the model itself, of what ``torch.compile(model)`` made."""
    return getattr(model, "_orig_mod", model)


def _set_sync(model: nn.Module, sharding: Sharding | None, enabled: bool) -> None:
    for part in sharded_parts(model):
        part.set_requires_gradient_sync(enabled, recurse=False)
    if sharding is not None:
        sharding.whole.enabled = enabled


def _options(
    plugin: FullyShardedDataParallelPlugin, device_mesh: Any, is_root: bool
) -> dict[str, Any]:
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy

    policy = plugin.mixed_precision_policy or MixedPrecisionPolicy()
    if not is_root:  # the next module casts what it takes; outputs in fp32 would not fit others
        policy = replace(policy, output_dtype=None)
    offload = plugin.cpu_offload
    if isinstance(offload, CPUOffloadPolicy) and device_mesh.device_type == "cpu":
        offload = replace(offload, pin_memory=False)  # there is nothing to copy to
    reshard = plugin.reshard_after_forward
    return {
        # None: the backward pass begins with the root's weights, which stay until then.
        "reshard_after_forward": None if is_root and reshard is True else reshard,
        "mp_policy": policy,
        "offload_policy": offload,
    }


def _begin_as_the_first(unit: Unit, device_mesh: Any, send: bool) -> None:
    """Move what a unit has yet whole to the device, and make it equal to the first process's.

    Unit by unit, for a device may not have room for the whole model.
    """
    if device_mesh.device_type == "cpu":
        device = torch.device("cpu")
    else:
        device = torch.device(device_mesh.device_type, torch.accelerator.current_device_index())
    done = {tensor for part in unit for inner in sharded_parts(part) for tensor in _tensors(inner)}
    tensors = [t for part in unit for t in _tensors(part) if t not in done]
    for tensor in tensors:
        if tensor.device.type not in ("meta", device.type):
            tensor.data = tensor.data.to(device)
    if send:
        make_equal(tensors, device_mesh)


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    return itertools.chain(module.parameters(), module.buffers())


def _prefetch_in_forward(units: list[Unit]) -> None:
    for (unit, *_), (following, *_) in itertools.pairwise(units):
        unit.set_modules_to_forward_prefetch([following])  # pyright: ignore


def _begin_at_the_root(root: Any) -> None:
    """Have what torch sets up at the first forward pass done for the whole model.

    Otherwise a part that is called first would take itself for the root, and the model then fail.
    """
    for part in sharded_parts(root):
        part._get_fsdp_state()._lazy_init = root._get_fsdp_state()._lazy_init


def _reshard_after_evaluation(root: nn.Module) -> None:
    """Free gathered weights after a forward pass that no backward pass follows.

    Otherwise the next one would compute with them, though an optimizer has stepped.
    """
    parts = list(sharded_parts(root))

    def reshard(*_: Any) -> None:
        if not torch.is_grad_enabled():
            for part in parts:
                part.reshard()

    root.register_forward_hook(_eager(reshard))


def _follow_running_statistics(root: nn.Module, device_mesh: Any) -> None:
    """Give all processes the first's batch norm statistics at each forward pass, as DDP does."""
    norms = [part for part in root.modules() if isinstance(part, _BatchNorm)]

    def send(*_: Any) -> None:
        make_equal((buffer for norm in norms for buffer in norm.buffers()), device_mesh)

    if norms:
        root.register_forward_pre_hook(_eager(send))


def _eager(hook: Callable[..., None]) -> Any:
    """Return a hook that torch.compile calls and does not trace."""
    return torch.compiler.disable(hook)
