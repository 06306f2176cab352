"""The grid in which processes are arranged: its text, and how it fits their number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from accelnb.errors import AccelnbError

# The dimensions of a mesh, by the names that torch's recipes and Accelerate give them, the
# outermost first: what communicates most is innermost, between neighbours.
MESH_DIMENSIONS = ("pp", "dp_replicate", "dp_shard", "cp", "sp", "tp")

Dimensions = tuple[tuple[str, int], ...]


def read_mesh(value: Any) -> Dimensions:
    """Read ``dp_replicate=2,tp=2`` (or a mapping, or pairs), outermost dimension first.

    One size may be -1: what the number of processes leaves.
    """
    if value == "none":
        return ()
    if isinstance(value, str):
        value = [part.split("=") for part in value.split(",") if value.strip()]
    pairs = value.items() if isinstance(value, Mapping) else value
    mesh = tuple((str(name).strip(), int(str(size))) for name, size in pairs)
    names = [name for name, _ in mesh]
    if len(set(names)) < len(names) or not set(names) <= set(MESH_DIMENSIONS):
        raise ValueError("has an unknown dimension, or one twice")
    sizes = [size for _, size in mesh]
    if sizes.count(-1) > 1 or any(size < 1 for size in sizes if size != -1):
        raise ValueError("a size must be at least 1, and one of them may be -1")
    return mesh


def write_mesh(mesh: Dimensions) -> str:
    return ",".join(f"{name}={size}" for name, size in mesh) or "none"


def places(mesh: Dimensions) -> int | None:
    """Return how many processes a mesh has place for; None if it takes what there is."""
    if not mesh or any(size == -1 for _, size in mesh):
        return None
    return math.prod(size for _, size in mesh)


def filled(mesh: Dimensions, processes: int) -> Dimensions:
    """Return a mesh with what is -1 in it filled in.

    Raises
    ------
    AccelnbError
        It has not as many places as there are processes.

    Examples
    --------
    >>> from accelnb.options.mesh import filled
    >>> filled((("dp_shard", -1), ("tp", 2)), processes=8)
    (('dp_shard', 4), ('tp', 2))
    """
    if not mesh:
        return ()
    given = math.prod(size for _, size in mesh if size != -1)
    number = f"{processes} rank{'s' * (processes > 1)}"
    if all(size != -1 for _, size in mesh):
        if given == processes:
            return mesh
        text = f"has {given} places for {number}; make the product of its dimensions {processes}"
        raise AccelnbError(text)
    if processes % given:
        raise AccelnbError(f"leaves no whole number for -1: {number} cannot be divided by {given}")
    return tuple((name, processes // given if size == -1 else size) for name, size in mesh)


def usual_mesh(strategy: str, processes: int, nodes: int = 1) -> Dimensions:
    """Return the mesh that a strategy has if none is asked for."""
    if strategy == "fsdp":
        return (("dp_shard", processes),)
    if strategy == "hsdp":
        return (("dp_replicate", nodes), ("dp_shard", processes // nodes))
    return (("dp_replicate", processes),)


def check_order(mesh: Dimensions) -> None:
    """Refuse an order of dimensions in which models cannot be divided.

    Raises
    ------
    AccelnbError
        It is another than that of `MESH_DIMENSIONS`.
    """
    ordered = tuple(sorted(mesh, key=lambda pair: MESH_DIMENSIONS.index(pair[0])))
    if mesh != ordered:
        raise AccelnbError(f"write its dimensions outermost first: {write_mesh(ordered)}")


def why_not_strategy(strategy: str, mesh: Dimensions, nodes: int) -> str | None:
    """Return why models cannot train so on a mesh, in one line; None if they can.

    Examples
    --------
    >>> from accelnb.options.mesh import why_not_strategy
    >>> why_not_strategy("fsdp", (("dp_replicate", 4),), nodes=1)
    'the mesh dp_replicate=4 has no dp_shard to divide models over; add one'
    """
    several = {name for name, size in mesh if size != 1}
    if strategy != "none" and "pp" in several:
        return (
            "there are no pipelines (pp) in this version; divide models over dp_shard or tp, or "
            "choose none and make their stages in the cell"
        )
    is_divided = bool(several & {"dp_shard", "cp", "sp"})
    if strategy == "fsdp" and mesh and several and not is_divided:
        return f"the mesh {write_mesh(mesh)} has no dp_shard to divide models over; add one"
    if strategy == "hsdp" and mesh and not (is_divided and "dp_replicate" in several):
        return f"the mesh {write_mesh(mesh)} lacks dp_replicate or dp_shard, which it needs"
    if strategy == "hsdp" and not mesh and nodes == 1:
        return "say how large its groups are, as in --mesh dp_replicate=2,dp_shard=-1"
    return None
