"""Sharding by hand, by the names of Accelerate's ``utils.fsdp_utils``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.fsdp_plugin import FullyShardedDataParallelPlugin
from accelnb.training.parallel.activation_checkpointing import apply_activation_checkpointing
from accelnb.training.parallel.fully_sharded.units import find_units, ignored_parameters
from accelnb.training.parallel.parallelize import parallelize

if TYPE_CHECKING:
    from accelnb.training.accelerator import Accelerator

_EFFICIENT_LOADING = "FSDP_CPU_RAM_EFFICIENT_LOADING"


def enable_fsdp_ram_efficient_loading() -> None:
    """Have ``from_pretrained`` of transformers read weights on one process of each machine."""
    os.environ.setdefault("ACCELERATE_USE_FSDP", "true")
    os.environ[_EFFICIENT_LOADING] = "true"


def disable_fsdp_ram_efficient_loading() -> None:
    """Have ``from_pretrained`` of transformers read weights on every process."""
    os.environ[_EFFICIENT_LOADING] = "false"


def fsdp2_prepare_model(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """Shard a model as an Accelerator does, without a part in its checkpoints and optimizers.

    So it is for models that do not train, such as a reference; others go through `prepare`.

    Raises
    ------
    AccelnbError
        The Accelerator shards nothing, or the model cannot be sharded.
    """
    if not accelerator.strategy.shards:
        raise AccelnbError(
            "fsdp2_prepare_model: this Accelerator shards nothing: launch with --strategy fsdp, or "
            "make it with Accelerator(fsdp_plugin=FullyShardedDataParallelPlugin())"
        )
    return parallelize(model, accelerator.mesh, accelerator.plan)


def fsdp2_prepare_auto_wrap_policy(
    fsdp2_plugin: FullyShardedDataParallelPlugin, model: nn.Module
) -> Callable[[nn.Module], bool] | None:
    """Return what says of a module of a model whether it is a unit; None if the model is all one.

    Examples
    --------
    >>> import torch
    >>> from accelnb.utils import FullyShardedDataParallelPlugin
    >>> from accelnb.training.fsdp_names import fsdp2_prepare_auto_wrap_policy
    >>> blocks = [torch.nn.TransformerEncoderLayer(8, 2, 16) for _ in range(2)]
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ModuleList(blocks))
    >>> is_unit = fsdp2_prepare_auto_wrap_policy(FullyShardedDataParallelPlugin(), model)
    >>> is_unit(model[0]), is_unit(blocks[0])
    (False, True)
    """
    if fsdp2_plugin.auto_wrap_policy is None:
        return None
    ignored = ignored_parameters(model, fsdp2_plugin)
    units = {part for unit in find_units(model, fsdp2_plugin, ignored) for part in unit}
    return units.__contains__


def fsdp2_apply_ac(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """Compute the activations of a model's units again in the backward pass; return the model."""
    return apply_activation_checkpointing(model, accelerator.mesh, accelerator.plan)


def fsdp2_load_full_state_dict(
    accelerator: Accelerator,
    model: nn.Module,
    full_sd: Mapping[str, Any],
    cpu_offload: bool = False,
) -> nn.Module:
    """Give a sharded model the whole weights that rank 0 has; return it.

    Parameters
    ----------
    full_sd
        The weights; on other ranks than 0 it is not read.
    cpu_offload
        Has no work to do: a part goes to where the model keeps it.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    given = dict(full_sd) if accelerator.is_main_process else {}
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, given, options=options)
    return model


def fsdp2_canonicalize_names(named_params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters by the names that they have without wrappers.

    Examples
    --------
    >>> from accelnb.utils import fsdp2_canonicalize_names
    >>> fsdp2_canonicalize_names({"_orig_mod.body._checkpoint_wrapped_module.weight": 1})
    {'body.weight': 1}
    """
    wrappers = ("_checkpoint_wrapped_module", "_orig_mod")
    return {
        ".".join(part for part in name.split(".") if part not in wrappers): value
        for name, value in named_params.items()
    }
