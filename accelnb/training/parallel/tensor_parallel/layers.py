"""Tensor parallelism: layers divided over ranks that compute on the same samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.plan import Plan
from accelnb.training.parallel.strategy import is_sharded
from accelnb.training.parallel.tensor_parallel.loss import compute_losses_inside

if TYPE_CHECKING:  # slow to import
    from torch.distributed.device_mesh import DeviceMesh

    from accelnb.training.parallel.tensor_parallel.layer_plan import Style


@dataclass(frozen=True)
class DividedLayers:
    """What tensor parallelism does to a model.

    Attributes
    ----------
    styles : dict
        How layers are divided, by the names of modules.
    ties : list of list of str
        The names of each parameter that several of them share.
    heads : list
        Modules, the attributes that say how many heads they have, and how many a rank has.
    stacks : list
        The first and last of the blocks that compute on parts of sequences.
    loss_parallel : bool
        Whether logits stay divided.
    """

    styles: dict[str, Style]
    ties: list[list[str]]
    heads: list[tuple[nn.Module, str, int]]
    stacks: list[tuple[nn.Module, nn.Module]]
    loss_parallel: bool


def planned_layers(model: nn.Module, mesh: Mesh, plan: Plan) -> DividedLayers | None:
    """Return how a model's layers will be divided over the mesh's ``tp``. It is not changed.

    Raises
    ------
    AccelnbError
        There is no plan for it, or it cannot be divided so.
    """
    if not mesh.has("tp") or is_sharded(model) or plan.strategy == "none":
        return None  # divided already, or to be by the cell itself
    from accelnb.training.parallel.tensor_parallel import layer_plan as plans
    from accelnb.training.parallel.tensor_parallel.sequence import parts_of_sequences

    config, tp = plan.tensor, mesh.size_along("tp")
    styles = plans.styles_by_word(model, config.plan)
    plans.check_layers(model, styles, tp, from_the_model=not config.plan)
    heads, ties = _heads_by_rank(model, styles, tp), _ties(model, styles)
    stacks = []
    if config.loss_parallel:
        styles = plans.keep_logits_divided(styles)
    if config.sequence_parallel:
        styles, stacks = parts_of_sequences(model, styles)
    return DividedLayers(styles, ties, heads, stacks, config.loss_parallel)


def apply_tensor_parallel(model: nn.Module, mesh: Mesh, layers: DividedLayers | None) -> nn.Module:
    """Divide a model's layers over the ranks of the mesh's ``tp``, in place."""
    if layers is None:
        return model
    from torch.distributed.tensor.parallel import parallelize_module

    from accelnb.training.parallel.tensor_parallel.styles import STYLES, divide_sequences

    tp_mesh = mesh.submesh("tp")
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, style in layers.styles.items():
        made = STYLES[style]() if isinstance(style, str) else style
        if made is not None:
            parallelize_module(model.get_submodule(name), tp_mesh, made)
    for first, *others in layers.ties:
        for other in others:
            owner, _, name = other.rpartition(".")
            model.get_submodule(owner).register_parameter(name, model.get_parameter(first))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable[name])  # not all styles keep it
    for module, name, count in layers.heads:
        setattr(module, name, count)
    for first, last in layers.stacks:
        divide_sequences(first, last, tp_mesh)
    if layers.loss_parallel:
        compute_losses_inside(model)
    _make_rest_equal(model, tp_mesh)
    return model


def _heads_by_rank(
    model: nn.Module, styles: Mapping[str, Style], tp: int
) -> list[tuple[nn.Module, str, int]]:
    """Return what attention that is divided shall say of its heads: those that a rank has."""
    from accelnb.training.parallel.tensor_parallel.layer_plan import (
        KEY_HEADS,
        head_counts,
        parents_of_divided,
    )

    counts = []
    for name, attention in parents_of_divided(model, styles).items():
        divides_keys = any(
            f"{name}.{child}".lstrip(".") in styles and "k" in child.lower()
            for child, _ in attention.named_children()
        )
        said = head_counts(attention)
        if "att" in f"{name}.{type(attention).__name__}".lower():
            said = {**_heads_of_config(model), **said}
        for attribute, count in said.items():
            if attribute in KEY_HEADS and not divides_keys:
                continue
            if count % tp:
                raise AccelnbError(
                    f"tensor parallelism: {tp} ranks cannot divide the {count} {attribute} of "
                    f"{name or 'the model'}: choose a tp that divides them"
                )
            if attribute in vars(attention):
                counts.append((attention, attribute, count // tp))
    return counts


def _heads_of_config(model: nn.Module) -> dict[str, int]:
    """Return the numbers of heads in the config of a model of transformers."""
    config = getattr(model, "config", None)
    config = getattr(config, "get_text_config", lambda: config)()
    names = ("num_attention_heads", "num_key_value_heads")
    counts = {name: getattr(config, name, None) for name in names}
    return {name: count for name, count in counts.items() if type(count) is int}


def _ties(model: nn.Module, styles: Mapping[str, Style]) -> list[list[str]]:
    """Return the names of each parameter that layers of the plan share.

    Raises
    ------
    AccelnbError
        One side is not in the plan, or they would be divided differently.
    """
    from accelnb.training.parallel.tensor_parallel.layer_plan import placement_of_weight

    modules = dict(model.named_modules())
    names: dict[nn.Parameter, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[parameter].append(name)
    ties = []
    for shared in names.values():
        owners = [name.rpartition(".")[0] for name in shared]
        planned = [owner for owner in owners if styles.get(owner, "replicate") != "replicate"]
        if len(shared) == 1 or not planned:
            continue
        for name, owner in zip(shared, owners, strict=True):
            if owner not in planned:
                raise AccelnbError(
                    f"tensor-parallel plan: {name} and the weight of {planned[0]} are one, and "
                    f"{owner} is not in the plan: add it, or leave both out"
                )
        placements = {placement_of_weight(styles[owner], modules[owner]) for owner in owners}
        if len(placements) > 1 or None in placements:
            raise AccelnbError(
                f"tensor-parallel plan: {' and '.join(shared)} are one weight, and the plan "
                "divides it in two ways: an embedding that is 'embedding_rowwise' goes with a "
                "head that is 'colwise_gather_output'"
            )
        ties.append(shared)
    return ties


def _make_rest_equal(model: nn.Module, tp_mesh: DeviceMesh) -> None:
    """Give what is not divided the values that it has on the first rank of the group."""
    from torch.distributed.tensor import DTensor

    device = torch.device(tp_mesh.device_type)
    for tensor in (*model.parameters(), *model.buffers()):
        if isinstance(tensor, DTensor):
            if not all(placement.is_replicate() for placement in tensor.placements):
                continue
            tensor = tensor.to_local()
        if tensor.is_meta:
            continue  # filled later
        received = tensor.detach().to(device)
        dist.broadcast(received, group=tp_mesh.get_group(), group_src=0)
        tensor.data.copy_(received)
