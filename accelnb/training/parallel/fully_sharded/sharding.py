"""A model sharded by FSDP2: unit by unit, in place, with what torch leaves to be done."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from accelnb.errors import AccelnbError
from accelnb.training.fsdp_plugin import FullyShardedDataParallelPlugin
from accelnb.training.parallel.fully_sharded.output_views import forbid_changes
from accelnb.training.parallel.fully_sharded.units import Unit, find_units, ignored_parameters
from accelnb.training.parallel.fully_sharded.whole_parameters import AveragedGradients, make_equal
from accelnb.training.parallel.whole import refuse_copies

_MARK = "_accelnb_sharding"
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


@dataclass(frozen=True)
class Sharding:
    """How a model was sharded. Its root module has it."""

    plugin: FullyShardedDataParallelPlugin
    device_mesh: Any
    whole: AveragedGradients

    @classmethod
    def of(cls, model: nn.Module) -> Sharding | None:
        return vars(root_of(model)).get(_MARK)


def shard(
    model: nn.Module,
    device_mesh: Any,
    plugin: FullyShardedDataParallelPlugin | None = None,
    casts_inputs: bool = True,
) -> nn.Module:
    """Shard a model in place over a ``DeviceMesh`` of torch; return it.

    All processes of the mesh must call it. They begin with the weights of the first.

    Parameters
    ----------
    device_mesh
        With one dimension, or with two: weights are then sharded over the second, and copied
        over the first.
    casts_inputs
        Whether what the model itself is given is cast as the plugin's policy says, and not only
        what its units are given.

    Raises
    ------
    AccelnbError
        The plugin does not fit the model.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    plugin = plugin or FullyShardedDataParallelPlugin()
    root = root_of(model)
    ignored = ignored_parameters(root, plugin)
    units = find_units(root, plugin, ignored)
    in_full_precision = _in_full_precision(root, units, plugin.mixed_precision_policy)
    units = [*in_full_precision, *units, (root,)]
    for unit in units:
        _begin_as_the_first(unit, device_mesh, send=plugin.sync_module_states is not False)
        for part in unit:
            forbid_changes(part)
        fully_shard(
            list(unit) if len(unit) > 1 else unit[0],  # pyright: ignore[reportArgumentType]
            mesh=device_mesh,
            ignored_params=ignored,
            **_options(
                plugin,
                device_mesh,
                is_root=unit[0] is root,
                keeps_dtype=unit in in_full_precision,
                casts_inputs=casts_inputs or unit[0] is not root,
            ),
        )
    if plugin.forward_prefetch:
        _prefetch_in_forward([(root,), *units[:-1]])
    if callable(getattr(type(root), "generate", None)):
        register_fsdp_forward_method(root, "generate")  # it may call parts of the model first
    refuse_copies(root)
    _begin_at_the_root(root)
    _reshard_after_evaluation(root)
    _refuse_to_begin_in_inference_mode(root)
    vars(root)[_MARK] = Sharding(plugin, device_mesh, AveragedGradients(ignored, device_mesh))
    return model


def sharded_parts(model: nn.Module) -> Iterator[Any]:
    """Yield the modules that ``fully_shard`` was called with."""
    from torch.distributed.fsdp import FSDPModule

    return (part for part in model.modules() if isinstance(part, FSDPModule))


def root_of(model: nn.Module) -> nn.Module:
    """Return the model itself, of what ``torch.compile(model)`` made."""
    return getattr(model, "_orig_mod", model)


def _refuse_to_begin_in_inference_mode(root: nn.Module) -> None:
    """Refuse a first forward pass that would gather weights into tensors of that mode for good."""

    def check(*_: Any) -> None:
        if torch.is_inference_mode_enabled():
            raise AccelnbError(
                "the first forward pass of a sharded model cannot be in torch.inference_mode(), "
                "for it could not be trained after that: use torch.no_grad()"
            )
        handle.remove()

    handle = root.register_forward_pre_hook(_eager(check), prepend=True)


def _have_gradients(parts: list[Any]) -> bool:
    """Return whether shards have gradients; gathered weights, which may be in their place, not."""
    groups = [group for part in parts for group in part._get_fsdp_state()._fsdp_param_groups]
    shards = (divided.sharded_param for group in groups for divided in group.fsdp_params)
    return any(shard.grad is not None for shard in shards)


def _in_full_precision(root: nn.Module, units: list[Unit], policy: Any) -> list[Unit]:
    """Return what is a unit of its own because its weights cannot be in 16 bits.

    Batch norms take these only with running statistics in 16 bits, which would not follow. Other
    norms take them only with inputs in 16 bits, which those outside of the units may not get.
    """
    if policy is None or policy.param_dtype is None:
        return []
    within = {part for unit in units for module in unit for part in module.modules()}
    return [
        (part,)
        for part in root.modules()
        if part is not root
        and (isinstance(part, _BatchNorm) or (isinstance(part, _NORMS) and part not in within))
        and any(True for _ in part.parameters(recurse=False))
    ]


def _options(
    plugin: FullyShardedDataParallelPlugin,
    device_mesh: Any,
    *,
    is_root: bool,
    keeps_dtype: bool,
    casts_inputs: bool,
) -> dict[str, Any]:
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy

    policy = plugin.mixed_precision_policy or MixedPrecisionPolicy()
    if keeps_dtype:
        policy = replace(policy, param_dtype=None)
    if not casts_inputs:
        policy = replace(policy, cast_forward_inputs=False)
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
    """Free gathered weights after a forward pass that perhaps no backward pass follows.

    Otherwise the next one would compute with them, though an optimizer has stepped; and clipping
    would look for gradients at them. So it is without gradients, and where there are some, as for
    an accuracy between the backward pass and the step.
    """
    parts = list(sharded_parts(root))

    def reshard(*_: Any) -> None:
        if not torch.is_grad_enabled() or _have_gradients(parts):
            for part in parts:
                part.reshard()

    root.register_forward_hook(_eager(reshard))


def follow_running_statistics(root: nn.Module, device_mesh: Any) -> None:
    """Give all processes the first's batch norm statistics at each forward pass, as DDP does."""
    norms = [part for part in root.modules() if isinstance(part, _BatchNorm)]

    def send(*_: Any) -> None:
        make_equal((buffer for norm in norms for buffer in norm.buffers()), device_mesh)

    if norms:
        root.register_forward_pre_hook(_eager(send))


def _eager(hook: Callable[..., None]) -> Any:
    """Return a hook that torch.compile calls and does not trace."""
    return torch.compiler.disable(hook)
