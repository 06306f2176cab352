"""Tensor parallelism: layers divided over ranks that compute on the same samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.plan import Plan

if TYPE_CHECKING:  # slow to import
    from torch.distributed.device_mesh import DeviceMesh

    from accelnb.training.parallel.tensor_plan import Style


def apply_tensor_parallel(model: nn.Module, mesh: Mesh, plan: Plan) -> nn.Module:
    """Divide a model's layers over the ranks of the mesh's dimension ``tp``, in place.

    Raises
    ------
    AccelnbError
        There is no plan for it, or it cannot be divided so. Then nothing has changed.
    """
    if not mesh.has("tp") or plan.tensor is None:
        return model
    return divide_layers(model, mesh.submesh("tp"), plan.tensor)


def divide_layers(model: nn.Module, tp_mesh: DeviceMesh, config: Any) -> nn.Module:
    """Divide a model's layers as a `TorchTensorParallelConfig` says, in place.

    Raises
    ------
    AccelnbError
        There is no plan for it, or it cannot be divided so. Then nothing has changed.
    """
    from torch.distributed.tensor.parallel import parallelize_module

    from accelnb.training.parallel import tensor_plan as plans
    from accelnb.training.parallel.tensor_sequence import parts_of_sequences
    from accelnb.training.parallel.tensor_styles import STYLES, divide_sequences

    tp = tp_mesh.size()
    styles = plans.styles_by_word(model, config.plan)
    plans.check_layers(model, styles, tp, from_the_model=not config.plan)
    heads = _heads_by_rank(model, styles, tp)
    ties = _ties(model, styles)
    stacks = []
    if config.loss_parallel:
        styles = plans.keep_logits_divided(styles)
    if config.sequence_parallel:
        styles, stacks = parts_of_sequences(model, styles)

    _make_equal(model, tp_mesh)
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modules = dict(model.named_modules())
    for name, style in styles.items():
        made = STYLES[style]() if isinstance(style, str) else style
        if made is not None:
            parallelize_module(modules[name], tp_mesh, made, src_data_rank=None)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable.get(name, parameter.requires_grad))
    for first, *others in ties:
        for other in others:
            owner, _, name = other.rpartition(".")
            modules[owner].register_parameter(name, model.get_parameter(first))
    for module, name, count in heads:
        setattr(module, name, count)
    for first, last in stacks:
        divide_sequences(first, last, tp_mesh)
    return model


def loss_parallel(enabled: bool) -> AbstractContextManager[None]:
    """Return a context for the loss of logits that are divided over the classes.

    The loss's backward pass belongs into it too.
    """
    from contextlib import nullcontext

    if not enabled:
        return nullcontext()
    from torch.distributed.tensor.parallel import loss_parallel

    return loss_parallel()


def _heads_by_rank(
    model: nn.Module, styles: Mapping[str, Style], tp: int
) -> list[tuple[nn.Module, str, int]]:
    """Return what attention that is divided shall say of its heads: those that a rank has."""
    from accelnb.training.parallel.tensor_plan import KEY_HEADS, head_counts, parents_of_divided

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
    from accelnb.training.parallel.tensor_plan import placement_of_weight

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


def _make_equal(model: nn.Module, tp_mesh: DeviceMesh) -> None:
    """Give all ranks of a tensor-parallel group the values of its first."""
    from torch.distributed.utils import _sync_module_states

    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        return  # filled later
    _sync_module_states(
        model,
        tp_mesh.get_group(),
        broadcast_bucket_size=2**28,
        src=0,
        params_and_buffers_to_ignore=(),
    )
