"""Where a model is cut into stages."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from accelnb.big_model.errors import BigModelError
from accelnb.big_model.sizes import compute_module_sizes


def balanced_split_points(
    model: nn.Module, how: str, stages: int, no_split_module_classes: list[str] | None
) -> list[str]:
    """Return the modules that stages begin with, so that these are about equally large.

    Raises
    ------
    BigModelError
        `how` is not ``auto``, or the model has too few modules.
    """
    if how != "auto":
        raise BigModelError(f"split_points={how!r}: give 'auto' or a list of names of modules")
    sizes = compute_module_sizes(model)
    whole = no_split_module_classes or getattr(model, "_no_split_modules", None) or ()
    points: list[str] = []
    before = 0
    for name in _pieces(model, "", set(whole)):
        share = len(points) + 1
        size = sizes.get(name, 0)
        if share < stages and before and before + size / 2 >= share * sizes[""] / stages:
            points.append(name)
        before += size
    if len(points) < stages - 1:
        raise BigModelError(
            f"split_points='auto': {type(model).__name__} cannot be cut into {stages} stages of "
            "about one size: name the modules they begin with, or use fewer processes"
        )
    return points


def check_split_points(model: nn.Module, points: list[str], stages: int) -> None:
    """Refuse names of no modules, and too many or too few of them."""
    modules = dict(model.named_modules())
    if unknown := [name for name in points if name not in modules]:
        raise BigModelError(f"split_points: {type(model).__name__} has no module {unknown[0]}")
    if len(set(points)) != stages - 1:
        raise BigModelError(
            f"split_points={points}: {stages} processes need {stages - 1} of them, for each has "
            "one stage"
        )


def _pieces(module: nn.Module, name: str, whole: set[str]) -> Iterator[str]:
    """Yield the names of a model's smallest modules, or of those that stay whole, in order."""
    if type(module).__name__ in whole or not any(module.children()):
        yield name
        return
    for key, child in module.named_children():
        yield from _pieces(child, f"{name}.{key}" if name else key, whole)
