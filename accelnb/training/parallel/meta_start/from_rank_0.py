"""Values that only rank 0 has, or that are to be its own on all: each process gets its part.

They are taken aside, the model is divided on the meta device, and each process's part of it is
allocated and filled: a tensor at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.collective_errors import of_every_rank
from accelnb.training.dtensors import is_dtensor
from accelnb.training.parallel.meta_start.without_values import allocate, named_tensors, some
from accelnb.training.parallel.slices import buffer_on, held, put, send_from_rank_0, slots
from accelnb.training.state import PartialState


@dataclass
class FromRank0:
    """Tensors of which rank 0 has the values; each with the places that held it in the model.

    Attributes
    ----------
    places : list of list
        Of each tensor.
    taken : list of tensor or None
        What was there on this rank; None once it has its part.
    """

    places: list[list[tuple[nn.Module, str]]] = field(default_factory=list)
    taken: list[torch.Tensor | None] = field(default_factory=list)

    def put_back(self) -> None:
        """Have the model as it was, where it could not be divided."""
        for tensor, places in zip(self.taken, self.places, strict=True):
            for module, key in places:
                if tensor is not None and held(module, key).is_meta:
                    put(module, key, tensor)


def take_from_rank_0(model: nn.Module, everything: bool = False) -> FromRank0:
    """Take aside what rank 0 is to send, and leave the model without values there.

    That is what rank 0 has values for, and some other rank does not. A collective.

    Parameters
    ----------
    everything
        What rank 0 has values for, whatever the others have.

    Raises
    ------
    AccelnbError
        Another rank's model is not rank 0's, or has values where that has none. On every rank;
        nothing was changed.
    """
    named = named_tensors(model)
    shapes = {name: (tuple(it.shape), str(it.dtype)) for name, it in named.items()}
    meta = {name for name, it in named.items() if it.is_meta}
    of_ranks = of_every_rank((shapes, meta, _kept_in_their_own_way(named)))
    _refuse_other_models([its for its, _, _ in of_ranks])
    absent = [its for _, its, _ in of_ranks]
    if strange := sorted(absent[0] - set.intersection(*absent)):
        rank = next(r for r, its in enumerate(absent) if strange[0] not in its)
        raise AccelnbError(
            f"rank {rank} has values for {some(strange)}, and rank 0 has none (meta device): give "
            "rank 0 the values, or none of the ranks"
        )
    wanted = set(named) if everything else set.union(*absent)
    wanted -= {name for name, it in named.items() if is_dtensor(it)}  # each has its part
    if odd := sorted(wanted & of_ranks[0][2].keys()):
        raise AccelnbError(
            f"{some(odd)}: rank 0 cannot send a {of_ranks[0][2][odd[0]]}; have each rank load it"
        )
    return _taken(model, {id(named[name]) for name in wanted - absent[0]})


def _kept_in_their_own_way(named: dict[str, torch.Tensor]) -> dict[str, str]:
    """Return the classes of quantized tensors and the like, whose values are not all there is."""
    plain = (torch.Tensor, nn.Parameter)
    kinds = {name: type(it) for name, it in named.items() if not is_dtensor(it)}
    return {name: kind.__name__ for name, kind in kinds.items() if kind not in plain}


def _refuse_other_models(shapes: list[dict[str, Any]]) -> None:
    for rank, its in enumerate(shapes):
        different = [name for name in (*shapes[0], *its) if shapes[0].get(name) != its.get(name)]
        if different:
            raise AccelnbError(
                f"rank {rank}'s model is another one than rank 0's: {some(different)} differ in "
                "name, shape or dtype; make the same one on all ranks"
            )


def _taken(model: nn.Module, wanted: set[int]) -> FromRank0:
    """Put tensors without values in the places of those wanted, one for tied ones."""
    number: dict[int, int] = {}
    empty: list[torch.Tensor] = []
    taken = FromRank0()
    for module, key, tensor in list(slots(model)):
        if id(tensor) not in wanted:
            continue
        if id(tensor) not in number:
            number[id(tensor)] = len(empty)
            empty.append(_on_meta(tensor))
            taken.places.append([])
            taken.taken.append(tensor)
        i = number[id(tensor)]
        taken.places[i].append((module, key))
        put(module, key, empty[i])
    return taken


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    # Also of one that is there: torch gives no memory to one that others have weak references to.
    empty = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, tensor.requires_grad)
    return empty


def fill_from_rank_0(model: nn.Module, taken: FromRank0, device: torch.device) -> None:
    """Give each process its part of what was taken aside, and free it on rank 0 piece by piece.

    A collective. The model may have been divided in any way since. Its parts are allocated on
    `device`, and what is sent goes by it.
    """
    targets = [held(*places[0]) for places in taken.places]
    buffer = buffer_on(device)
    if PartialState().process_index != 0:
        taken.taken = [None] * len(taken.places)
    allocate(model, targets, device)
    for i, places in enumerate(taken.places):
        send_from_rank_0(taken.taken[i], held(*places[0]), buffer)
        taken.taken[i] = None
