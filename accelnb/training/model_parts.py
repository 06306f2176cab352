"""What a model is made of, asked by Accelerate's names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal, overload

import torch
from torch import nn

from accelnb.training.available import is_peft_available
from accelnb.training.dtensors import is_dtensor
from accelnb.training.parallel.unwrapping import extract_model_from_parallel


def is_peft_model(model: nn.Module) -> bool:
    """Return whether a model, also a prepared one, is one of peft."""
    if not is_peft_available():
        return False
    from peft import PeftModel  # pyright: ignore[reportMissingImports]

    return isinstance(extract_model_from_parallel(model), PeftModel)


def get_module_class_from_name(module: nn.Module, name: str) -> type[nn.Module] | None:
    """Return the class of that name among the parts of a model, or None.

    Examples
    --------
    >>> from torch import nn
    >>> from accelnb.training.model_parts import get_module_class_from_name
    >>> get_module_class_from_name(nn.Sequential(nn.ReLU()), "ReLU") is nn.ReLU
    True
    """
    return next((type(part) for part in module.modules() if type(part).__name__ == name), None)


@overload
def get_module_children_bottom_up(
    model: nn.Module, return_fqns: Literal[False] = False
) -> list[nn.Module]: ...
@overload
def get_module_children_bottom_up(
    model: nn.Module, return_fqns: Literal[True]
) -> list[tuple[str, nn.Module]]: ...
def get_module_children_bottom_up(model: nn.Module, return_fqns: bool = False) -> list[Any]:
    """Return the parts of a model, each after those within it, the model itself last.

    Parameters
    ----------
    return_fqns
        Return pairs of a name and a part.

    Examples
    --------
    >>> from torch import nn
    >>> from accelnb.utils import get_module_children_bottom_up
    >>> model = nn.Sequential(nn.Sequential(nn.ReLU()), nn.Tanh())
    >>> [name for name, _ in get_module_children_bottom_up(model, return_fqns=True)]
    ['0.0', '0', '1', '']
    """
    parts: list[tuple[str, nn.Module]] = []

    def visit(name: str, part: nn.Module) -> None:
        for of_child, child in part.named_children():
            visit(f"{name}.{of_child}" if name else of_child, child)
        parts.append((name, part))

    visit("", model)
    return parts if return_fqns else [part for _, part in parts]


def get_parameters_from_modules(
    modules: Iterable[nn.Module] | str | None, model: nn.Module, device: torch.device | str
) -> set[nn.Parameter]:
    """Return the parameters of some modules.

    Parameters
    ----------
    modules
        Modules, or a regular expression that fits whole names of modules of `model`; these are
        moved to `device`.
    """
    if isinstance(modules, str):
        modules = [part for name, part in model.named_modules() if re.fullmatch(modules, name)]
        for part in modules:
            part.to(device)
    return {parameter for part in modules or () for parameter in part.parameters()}


def model_has_dtensor(model: nn.Module) -> bool:
    """Return whether some parameters of a model are divided over processes."""
    return any(is_dtensor(parameter) for parameter in model.parameters())


def get_model_tp_size(model: nn.Module) -> int | None:
    """Return over how many processes ``from_pretrained`` has divided the layers of a model."""
    size = getattr(model, "tp_size", None)
    if size is not None:
        return size
    said = getattr(getattr(model, "config", None), "distributed_config", None)
    return said.get("tp_size") if isinstance(said, dict) else getattr(said, "tp_size", None)


def has_transformer_engine_layers(model: nn.Module) -> bool:
    """Return whether a model has layers of Transformer Engine."""
    return any(type(part).__module__.startswith("transformer_engine.") for part in model.modules())
