"""A mesh in words: how many ranks share what, and how much of a model each holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

# What the ranks along a dimension divide among them, in the order of the grid.
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
    mesh: Mapping[str, int] | Iterable[tuple[str, int]], ranks: int, *, is_sharded: bool = True
) -> str:
    """Return what a mesh means.

    Parameters
    ----------
    ranks
        How many there are.
    is_sharded
        Whether the ranks divide the weights as the mesh says. With ``--strategy none`` the cell
        may, and nothing is said of it.

    Examples
    --------
    >>> from accelnb.options.mesh_words import mesh_in_words
    >>> mesh_in_words({"dp_shard": 2, "tp": 2}, 4)
    '4 ranks: data 2 x tensor 2; each rank holds 1/4'
    >>> mesh_in_words({"dp_replicate": 2}, 2)
    '2 ranks: copies 2; each rank holds the whole model'
    """
    sizes = {name: size for name, size in dict(mesh).items() if size > 1}
    said = f"{ranks} rank{'s' * (ranks != 1)}"
    if sizes:
        said += ": " + " x ".join(f"{_WORDS.get(name, name)} {n}" for name, n in sizes.items())
    if not is_sharded:
        return said
    parts = prod(size for name, size in sizes.items() if name in _DIVIDE_WEIGHTS)
    return f"{said}; each rank holds {f'1/{parts}' if parts > 1 else 'the whole model'}"
