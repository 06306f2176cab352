"""FSDP2: each process has a part of every weight, gathered only while a unit computes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from accelnb.errors import AccelnbError
from accelnb.training.enums import DDPCommunicationHookType
from accelnb.training.fsdp_plugin import FullyShardedDataParallelPlugin
from accelnb.training.parallel.fully_sharded.sharding import (
    Sharding,
    follow_running_statistics,
    root_of,
    shard,
    sharded_parts,
)
from accelnb.training.parallel.fully_sharded.units import find_units, ignored_parameters
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.plan import Plan
from accelnb.training.parallel.quantized import scales_kept
from accelnb.training.parallel.strategy import Strategy


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
    plugin = _plugin_of(plan)
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
        find_units(root_of(model), plugin, ignored_parameters(root_of(model), plugin))


def apply_fsdp(model: nn.Module, mesh: Mesh, plan: Plan) -> nn.Module:
    """Shard a model over the processes of a mesh, or over groups of them that hold copies (HSDP).

    One that is sharded already is left as it is.
    """
    if any(True for _ in sharded_parts(model)):
        return model
    plugin = _plugin_of(plan)
    # Labels and features in fp32 stay so, as with DDP; autocast casts what layers take.
    with scales_kept(model, mesh.fsdp_mesh):
        shard(model, mesh.fsdp_mesh, plugin, casts_inputs=plugin is plan.fsdp)
    if plan.ddp.find_unused_parameters:
        for part in sharded_parts(model):
            part.set_reduce_scatter_unused_params(True, recurse=False)
    if plan.ddp.broadcast_buffers:
        follow_running_statistics(root_of(model), mesh.fsdp_mesh)
    return model


def _plugin_of(plan: Plan) -> FullyShardedDataParallelPlugin:
    """Return what is said of sharding, with a policy for the precision unless it has its own.

    Weights are gathered in 16 bits. Autocast alone would keep copies in 16 bits of all weights
    until the backward pass: of the whole model, on every process.
    """
    plugin = plan.fsdp or FullyShardedDataParallelPlugin()
    if plugin.mixed_precision_policy is not None or plan.precision.kind not in ("bf16", "fp16"):
        return plugin
    from torch.distributed.fsdp import MixedPrecisionPolicy

    plugin = copy.copy(plugin)
    plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=plan.precision.dtype,
        reduce_dtype=torch.float32,
    )
    return plugin


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
        return cls(mesh, _plugin_of(plan))

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


def _set_sync(model: nn.Module, sharding: Sharding | None, enabled: bool) -> None:
    for part in sharded_parts(model):
        part.set_requires_gradient_sync(enabled, recurse=False)
    if sharding is not None:
        sharding.whole.enabled = enabled
