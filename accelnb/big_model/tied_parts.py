"""Parts of a model that have to be on one device, for weights of theirs are tied."""

from __future__ import annotations

from collections.abc import Sequence

from accelnb.big_model.sizes import Named


def tied_to(name: str, parts: Sequence[Named], tied: Sequence[Sequence[str]]) -> list[Named]:
    """Return those of the parts that belong on the device of another one.

    Parameters
    ----------
    name
        That of the other part.
    tied
        Groups of tied parameters, by name.

    Examples
    --------
    >>> from torch import nn
    >>> from accelnb.big_model.tied_parts import tied_to
    >>> parts = [("head", nn.Linear(2, 4)), ("norm", nn.LayerNorm(2))]
    >>> [name for name, _ in tied_to("words", parts, [["head.weight", "words.weight"]])]
    ['head']
    """
    found: list[Named] = []
    names, groups = [name], list(tied)
    left = list(parts)
    while reached := [group for group in groups if _touches(group, names)]:
        groups = [group for group in groups if group not in reached]
        tensors = {tensor for group in reached for tensor in group}
        new = [part for part in left if any(is_inside(tensor, part[0]) for tensor in tensors)]
        left = [part for part in left if part not in new]
        found += new
        names += [key for key, _ in new]
    return found


def is_inside(name: str, part: str) -> bool:
    """Return whether a name is that of a part of the model, or of something in it."""
    return name == part or name.startswith(f"{part}.")


def _touches(group: Sequence[str], names: Sequence[str]) -> bool:
    return any(is_inside(tensor, name) for tensor in group for name in names)
