"""Which layers of a model tensor parallelism divides, and how; refused where that cannot be right.

Slow to import, as `tensor_styles` is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from torch import nn
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
)

from accelnb.errors import AccelnbError
from accelnb.training.parallel.tensor_parallel.styles import (
    STYLES,
    ReplicatedWithSummedGradients,
    VocabularyParallel,
)

Style = str | ParallelStyle

# The styles that gather what a divided layer returns: a head's logits.
_GATHERING = ("colwise_gather_output", "colwise_rep")


def styles_by_word(model: nn.Module, plan: Mapping[str, Style] | None) -> dict[str, Style]:
    """Return the style of each module that a plan, or else the model's own, names.

    Raises
    ------
    AccelnbError
        There is no plan; or it names no module, or a style that there is not.
    """
    given = plan or own_plan(model)
    if not given:
        raise AccelnbError(
            f"tensor parallelism needs a plan, and {type(model).__name__} has none (`tp_plan`): "
            "give one, as in TorchTensorParallelConfig(plan={'blocks.*.up': 'colwise', "
            "'blocks.*.down': 'rowwise'})"
        )
    modules = dict(model.named_modules())
    parameters = dict(model.named_parameters())
    styles: dict[str, Style] = {}
    for pattern, style in given.items():
        named = list(_matching(pattern, modules))
        if not named and any(_matching(pattern, parameters)) and not plan:
            raise _only_transformers(pattern, style)
        if not named and plan:
            raise AccelnbError(f"tensor-parallel plan: {pattern!r} names no module of the model")
        if named and isinstance(style, str) and style not in STYLES:
            raise _no_style(pattern, style) if plan else _only_transformers(pattern, style)
        styles.update(dict.fromkeys(named, style))
    if not styles:
        raise AccelnbError("tensor-parallel plan: the model's own names none of its modules")
    return styles


def own_plan(model: nn.Module) -> dict[str, str]:
    """Return the plan that a model has, as those of transformers, or its parts have."""
    for name in ("tp_plan", "_tp_plan"):
        plan = getattr(model, name, None)
        if isinstance(plan, dict) and plan:
            return dict(plan)
    return {
        f"{name}.{pattern}": style
        for name, child in model.named_children()
        for pattern, style in own_plan(child).items()
    }


def keep_logits_divided(styles: dict[str, Style]) -> dict[str, Style]:
    """Return the styles with which logits stay divided over the classes, as loss_parallel wants.

    Raises
    ------
    AccelnbError
        No layer's output is gathered: no head is in the plan.
    """
    divided = ColwiseParallel(output_layouts=Shard(-1), use_local_output=False)
    heads = [name for name, style in styles.items() if style in _GATHERING]
    own = [style for style in styles.values() if isinstance(style, ColwiseParallel)]
    if not heads and all(style.use_local_output for style in own):
        raise AccelnbError(
            "loss_parallel: the tensor-parallel plan has no head: give it, as in "
            "plan={..., 'head': 'colwise_gather_output'}"
        )
    return {**styles, **dict.fromkeys(heads, divided)}


def check_layers(
    model: nn.Module, styles: Mapping[str, Style], tp: int, from_the_model: bool
) -> None:
    """Refuse layers that their styles cannot divide over so many ranks.

    Raises
    ------
    AccelnbError
        Naming the first such layer.
    """
    modules = dict(model.named_modules())
    for name, style in styles.items():
        _check_kind(name, modules, style)
        _check_sizes(name, modules[name], style, tp)
    for name, parent in parents_of_divided(model, styles).items():
        prefix = name and f"{name}."
        children = {prefix + child: module for child, module in parent.named_children()}
        if not from_the_model:
            _check_fused(parent, children, styles)
        _check_norms(children, styles)


def parents_of_divided(model: nn.Module, styles: Mapping[str, Style]) -> dict[str, nn.Module]:
    """Return the modules, by name, that get only a part of what a layer in them returns."""
    names = [name.rpartition(".")[0] for name, style in styles.items() if returns_a_part(style)]
    return {name: model.get_submodule(name) for name in dict.fromkeys(names)}


def returns_a_part(style: Style) -> bool:
    """Return whether a rank gets a part of what a layer returns, as a plain tensor."""
    if isinstance(style, ColwiseParallel):
        return style.use_local_output and style.output_layouts == (Shard(-1),)
    return style == "colwise"


def placement_of_weight(style: Style, module: nn.Module) -> Shard | Replicate | None:
    """Return how a style places a layer's weight; None if that is not known."""
    made = STYLES[style]() if isinstance(style, str) else style
    in_embedding = isinstance(module, nn.Embedding)
    if isinstance(made, ColwiseParallel):
        return Shard(1 if in_embedding else 0)
    if isinstance(made, VocabularyParallel):
        return Shard(0)
    if isinstance(made, RowwiseParallel):
        return Shard(0 if in_embedding else 1)
    if isinstance(made, SequenceParallel | ReplicatedWithSummedGradients):
        return Replicate()
    return None


def _matching(pattern: str, names: Mapping[str, object]) -> Iterator[str]:
    wanted = pattern.split(".")
    for name in names:
        parts = name.split(".")
        if len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted)):
            yield name


def _check_kind(name: str, modules: Mapping[str, nn.Module], style: Style) -> None:
    parent = modules[name.rpartition(".")[0]]
    if isinstance(parent, nn.MultiheadAttention):
        raise AccelnbError(
            f"tensor-parallel plan: {name} is within nn.MultiheadAttention, which reads its "
            "weights past it: write the attention with layers of its own for q, k, v and output"
        )
    module, known = modules[name], nn.Linear | nn.Embedding
    if isinstance(style, str) and style.startswith("embedding"):
        known = nn.Embedding
    divided = isinstance(placement_of_weight(style, module), Shard)
    if divided and not isinstance(module, known):
        raise AccelnbError(
            f"tensor-parallel plan: {name} is a {type(module).__name__}, and {style} divides only "
            f"{'an nn.Embedding' if known is nn.Embedding else 'nn.Linear and nn.Embedding'}"
        )
    if divided and module._parameters.get("weight") is None:
        raise AccelnbError(
            f"tensor-parallel plan: the weight of {name} is computed from others (weight_norm, "
            "parametrizations), and cannot be divided: leave the layer out of the plan"
        )
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        raise AccelnbError(f"tensor-parallel plan: {name} has max_norm, and cannot be divided")


def _check_sizes(name: str, module: nn.Module, style: Style, tp: int) -> None:
    placement = placement_of_weight(style, module)
    if not isinstance(placement, Shard):
        return
    size = module.get_parameter("weight").shape[placement.dim]
    if size % tp:
        what = {
            (nn.Linear, 0): "out_features",
            (nn.Linear, 1): "in_features",
            (nn.Embedding, 0): "num_embeddings",
            (nn.Embedding, 1): "embedding_dim",
        }[nn.Embedding if isinstance(module, nn.Embedding) else nn.Linear, placement.dim]
        raise AccelnbError(
            f"tensor parallelism: {tp} ranks cannot divide {name}, whose {what} is {size}: "
            f"make it a multiple of {tp}, or leave it out of the plan"
        )


def _check_fused(
    parent: nn.Module, children: Mapping[str, nn.Module], styles: Mapping[str, Style]
) -> None:
    """Refuse a layer that makes queries, keys and values at once: its rows are not by heads."""
    for name, layer in children.items():
        fused = isinstance(layer, nn.Linear) and layer.out_features == 3 * layer.in_features
        if fused and styles.get(name) == "colwise" and head_counts(parent):
            raise AccelnbError(
                f"tensor-parallel plan: {name} returns queries, keys and values at once, and a "
                "part of its rows is no part of the heads: make it three layers (or, if each "
                "head's rows are together, say so by ColwiseParallel() instead of 'colwise')"
            )


def _check_norms(children: Mapping[str, nn.Module], styles: Mapping[str, Style]) -> None:
    """Refuse norms of divided heads that are in no plan: their gradients would differ by rank."""
    whole = {
        layer.in_features
        for name, layer in children.items()
        if name in styles and isinstance(layer, nn.Linear)
    }
    for name, layer in children.items():
        sizes = {parameter.numel() for parameter in layer.parameters()}
        if is_norm(layer) and name not in styles and not sizes <= whole:
            raise AccelnbError(
                f"tensor-parallel plan: {name} norms a part of the heads on each rank, so its "
                f"gradients must be summed: add {name!r}: 'replicated_with_grad_allreduce'"
            )


def is_norm(module: nn.Module) -> bool:
    """Return whether a module is a norm with weights."""
    named_so = "norm" in type(module).__name__.lower()
    return named_so and not any(module.children()) and bool(list(module.parameters()))


_HEADS = ("num_heads", "n_heads", "n_head", "num_attention_heads", "nhead", "nheads", "heads")
KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_kv_head")


def head_counts(module: nn.Module) -> dict[str, int]:
    """Return what a module says of its number of heads, by the attributes."""
    counts = {name: vars(module).get(name) for name in (*_HEADS, *KEY_HEADS)}
    return {name: count for name, count in counts.items() if type(count) is int}


def _only_transformers(pattern: str, style: Style) -> AccelnbError:
    return AccelnbError(
        f"the model's tensor-parallel plan has {pattern!r}: {style!r}, which transformers alone "
        "can apply: load the model by from_pretrained(distributed_config=DistributedConfig("
        "tp_size=...)), or give a plan"
    )


def _no_style(pattern: str, style: str) -> AccelnbError:
    return AccelnbError(
        f"tensor-parallel plan: {pattern!r}: {style!r} is no style: choose one of "
        f"{', '.join(STYLES)}, or give a ParallelStyle of torch"
    )
