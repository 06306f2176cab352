"""A mesh in words: what the ranks share, how much of a model each holds, where each of them is."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from math import prod

# What the ranks along a dimension divide among them.
_WORDS = {
    "pp": "pipeline",
    "dp_replicate": "copies",
    "dp_shard": "data",
    "cp": "context",
    "sp": "sequence",
    "tp": "tensor",
}
_DIVIDE_WEIGHTS = ("pp", "dp_shard", "cp", "sp", "tp")


def mesh_in_words(
    mesh: Mapping[str, int] | Iterable[tuple[str, int]], *, is_sharded: bool = True
) -> str:
    """Return what a mesh means.

    Parameters
    ----------
    is_sharded
        Whether the ranks divide the weights as the mesh says. With ``--strategy none`` the cell
        may, and nothing is said of it.

    Examples
    --------
    >>> from accelnb.options.mesh_words import mesh_in_words
    >>> mesh_in_words({"dp_shard": 2, "tp": 2})
    'data 2 x tensor 2; each rank holds 1/4'
    >>> mesh_in_words({"dp_replicate": 2})
    'copies 2; each rank holds the whole model'
    """
    sizes = {name: size for name, size in dict(mesh).items() if size > 1}
    said = " x ".join(f"{_WORDS.get(name, name)} {size}" for name, size in sizes.items())
    if not is_sharded:
        return said
    parts = prod(size for name, size in sizes.items() if name in _DIVIDE_WEIGHTS)
    holds = f"each rank holds {f'1/{parts}' if parts > 1 else 'the whole model'}"
    return f"{said}; {holds}" if said else holds


def places_in_words(mesh: Mapping[str, int] | Iterable[tuple[str, int]]) -> list[str]:
    """Return where each rank of a mesh is in it.

    Examples
    --------
    >>> from accelnb.options.mesh_words import places_in_words
    >>> places_in_words({"dp_shard": 2, "tp": 2})
    ['dp_shard 0, tp 0', 'dp_shard 0, tp 1', 'dp_shard 1, tp 0', 'dp_shard 1, tp 1']
    """
    names, sizes = zip(*dict(mesh).items(), strict=True)
    return [
        ", ".join(f"{name} {at}" for name, at in zip(names, place, strict=True))
        for place in itertools.product(*map(range, sizes))
    ]
