"""Which modules of a model are not quantized."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from accelnb.training.checkpoint.weights import find_tied_parameters


def get_keys_to_not_convert(model: nn.Module) -> list[str]:
    """Return the names of the modules that are better not quantized.

    That is the last one, which computes a model's outputs, and all that have tied weights. A bare
    model of transformers, which has no such last one, has none.

    Examples
    --------
    >>> from torch import nn
    >>> from accelnb.big_model.quantization.left_out import get_keys_to_not_convert
    >>> get_keys_to_not_convert(nn.ModuleDict({"layer": nn.Linear(2, 2), "head": nn.Linear(2, 2)}))
    ['head']
    """
    tied = [name for group in find_tied_parameters(model) for name in group]
    prefix = getattr(model, "base_model_prefix", None)
    if prefix is not None and not tied and not hasattr(model, prefix):
        return []
    children = [name for name, _ in model.named_children()]
    modules = {name.rpartition(".")[0] for name in tied} | set(children[-1:])
    return sorted(modules - {""})


def is_left_out(name: str, names: Iterable[str]) -> bool:
    """Return whether a module is one of those named, or inside one.

    ``lm_head`` stands for every module that is called so, ``model.layers.0`` for that and what is
    in it.

    Examples
    --------
    >>> from accelnb.big_model.quantization.left_out import is_left_out
    >>> [is_left_out(name, ["head", "layers.0"]) for name in ("a.head", "layers.0.up", "layers.1")]
    [True, True, False]
    """
    last = name.rpartition(".")[2]
    return any(key in (name, last) or f"{key}." in name for key in names)


def linear_layers(
    model: nn.Module, left_out: Iterable[str], around: str = ""
) -> dict[str, nn.Linear]:
    """Return the linear layers that are to be quantized, by name.

    Subclasses are left alone: others have made them for themselves, and may use their weights.

    Parameters
    ----------
    around
        What the names of a larger model begin with, that this one is a part of.
    """
    return {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if name and type(module) is nn.Linear and not is_left_out(f"{around}{name}", left_out)
    }
