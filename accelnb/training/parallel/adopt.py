"""Models that come divided: by transformers, or by the cell itself. They are not divided again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from accelnb.errors import AccelnbError
from accelnb.options.mesh import MESH_DIMENSIONS, write_mesh
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.plan import Plan
from accelnb.training.parallel.strategy import is_sharded

# What others call the dimensions of a mesh.
_OTHER_NAMES = {
    "fsdp": "dp_shard",
    "dp": "dp_shard",
    "shard": "dp_shard",
    "replicate": "dp_replicate",
    "ddp": "dp_replicate",
}
# The mesh of the experts of transformers' models; that of the rest says where data is divided.
_OF_EXPERTS = {"ep", "efsdp"}
# ``fully_shard`` divides over these as over one.
_OF_WEIGHTS = ("dp_shard", "cp", "sp")


def adopted(model: nn.Module, mesh: Mesh, asked: bool) -> Mesh:
    """Return the mesh for a model: the one there is, or that on which the model came divided.

    Parameters
    ----------
    asked
        Whether the mesh was asked for. If not, that of the model is followed.

    Raises
    ------
    AccelnbError
        The model is divided over other processes than that, or in a way that is not known.
    """
    if not is_sharded(model):
        return mesh
    root = _root(model)
    its_own = _described(root, model, mesh)
    if its_own.size != mesh.size:
        raise AccelnbError(
            f"the model came divided over {its_own.size} of {mesh.size} ranks: divide it over all"
        )
    if its_own.has("pp"):
        raise AccelnbError("the model came divided into pipeline stages: not in this version")
    if asked and not _agree(its_own, mesh):
        raise AccelnbError(
            f"the model came divided over the mesh {_written(its_own)}, and the Accelerator has "
            f"{_written(mesh)}: give both the same"
        )
    if not asked:
        return its_own
    needs_its_mesh = not is_fully_sharded(model) and _sizes(its_own) == _sizes(mesh)
    if not needs_its_mesh or its_own.given == mesh.given or root is mesh.torch_mesh:
        return mesh
    return replace(mesh, dimensions=its_own.dimensions, given=its_own.given)


def is_fully_sharded(model: nn.Module) -> bool:
    """Return whether ``fully_shard`` was applied to a model that `is_sharded`."""
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(part, FSDPModule) for part in model.modules())


def strategy_of(model: nn.Module, mesh: Mesh, plan: Plan) -> str:
    """Return how a model that came divided trains on the mesh that is followed.

    Raises
    ------
    AccelnbError
        Nothing would average its gradients.
    """
    if plan.strategy == "none":
        return "none"  # the cell does what there is to do
    if is_fully_sharded(model) or "dp_shard" in mesh.dimensions:
        return "fsdp"
    if mesh.data_shares > 1:
        raise AccelnbError(
            f"the model came divided over {_written(mesh)}, where nothing averages its gradients: "
            "name the dimension along which data is divided dp_shard"
        )
    return "none"


@dataclass(frozen=True)
class Renamed:
    """A ``DeviceMesh`` whose dimensions have our names.

    Parts of it stay parts of the mesh that the model has, as ``fully_shard`` wants.
    """

    mesh: Any
    names: tuple[str, ...]

    @property
    def mesh_dim_names(self) -> tuple[str, ...]:
        return self.names

    def __getitem__(self, names: str | tuple[str, ...]) -> Any:
        theirs = dict(zip(self.names, self.mesh.mesh_dim_names, strict=True))
        one = isinstance(names, str)
        return self.mesh[theirs[names]] if one else self.mesh[tuple(theirs[n] for n in names)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.mesh, name)


def _described(root: Any, model: nn.Module, mesh: Mesh) -> Mesh:
    """Return our mesh of a torch mesh of any names."""
    said = root.mesh_dim_names
    if said is None and root.ndim == 1:
        names: tuple[str, ...] = ("dp_shard" if is_fully_sharded(model) else "tp",)
    else:
        names = tuple(_OTHER_NAMES.get(name, name) for name in said or ("?",))
    if not set(names) <= set(MESH_DIMENSIONS) or len(set(names)) < len(names):
        raise AccelnbError(
            f"the model came divided over a mesh with the dimensions {said}: name them "
            f"{', '.join(MESH_DIMENSIONS)}, so that it is known which ranks share data"
        )
    ranks = tuple(root.mesh.flatten().tolist())
    dimensions = dict(zip(names, root.shape, strict=True))
    given = None if said is None else root if names == said else Renamed(root, names)
    return Mesh(mesh.device, dimensions, ranks, mesh.rank, given)


def _root(model: nn.Module) -> Any:
    """Return the whole mesh over which a model's parameters are divided.

    Raises
    ------
    AccelnbError
        There are several.
    """
    roots: list[Any] = []
    for mesh in _meshes(model):
        root = mesh._get_root_mesh()
        if root not in roots:
            roots.append(root)
    dense = [root for root in roots if not _OF_EXPERTS & set(root.mesh_dim_names or ())] or roots
    if len(dense) > 1:
        raise AccelnbError(
            "the model came divided over several meshes, "
            f"{' and '.join(str(tuple(root.shape)) for root in dense)}: take parts of one"
        )
    return dense[0]


def _meshes(model: nn.Module) -> Iterator[Any]:
    from torch.distributed.tensor import DTensor

    return (p.device_mesh for p in model.parameters() if isinstance(p, DTensor))


def _agree(one: Mesh, other: Mesh) -> bool:
    """Return whether meshes divide the same weights and data over the same ranks."""
    same_sizes = all(
        one.size_along(*names) == other.size_along(*names)
        for names in (("dp_replicate",), _OF_WEIGHTS, ("tp",), ("pp",))
    )
    if not same_sizes or one.ranks != other.ranks:
        return False
    along_sequence = other.has("cp", "sp")  # of which the model's own mesh need not know
    return along_sequence or one.shares_of(one.size) == other.shares_of(other.size)


def _sizes(mesh: Mesh) -> dict[str, int]:
    return {name: size for name, size in mesh.dimensions.items() if size > 1}


def _written(mesh: Mesh) -> str:
    return write_mesh(tuple(_sizes(mesh).items()))
