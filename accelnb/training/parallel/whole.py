"""Whole weights of a divided model, for as long as one looks at them or changes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.collective_errors import of_every_rank
from accelnb.training.dtensors import is_dtensor, reshard
from accelnb.training.parallel.meta_start.without_values import some
from accelnb.training.parallel.slices import (
    blocks_from_rank_0,
    buffer_on,
    class_name,
    local_part,
    overlap,
    own_slices,
    put,
    rows_of,
    slots,
)
from accelnb.training.parallel.unwrapping import extract_model_from_parallel
from accelnb.training.state import PartialState


@dataclass
class _Summoned:
    """A parameter, the places that hold it, and what it is whole where that is wanted."""

    name: str
    parameter: torch.Tensor
    whole: torch.Tensor | None = None
    places: list[tuple[nn.Module, str]] = field(default_factory=list)

    def put(self, tensor: torch.Tensor | None) -> None:
        for module, key in self.places:
            if tensor is not None:
                put(module, key, tensor)


@contextmanager
def summon_full_params(
    module: nn.Module, recurse: bool = True, writeback: bool = True, rank0_only: bool = False
) -> Iterator[None]:
    """Have the weights of a divided model, or of a module in it, whole within a ``with`` block.

    All processes enter and leave it. What it takes is memory for these weights: name the module
    that has them. It is not for forward passes. Models that are not divided stay as they are.

    Parameters
    ----------
    module
        A prepared model, or a module inside one.
    recurse
        Also the weights of the modules inside.
    writeback
        Keep what rank 0 changes in them, on all processes. What others change does not count.
    rank0_only
        Only rank 0 has them whole.

    Raises
    ------
    AccelnbError
        Another rank than 0 alone changed a weight, or failed in the block. Then no change is kept.

    Examples
    --------
    >>> import torch
    >>> from accelnb import Accelerator
    >>> from accelnb.utils import summon_full_params
    >>> model = Accelerator().prepare(torch.nn.Linear(2, 1))
    >>> with summon_full_params(model):
    ...     model.weight.shape
    torch.Size([1, 2])
    """
    module = extract_model_from_parallel(module)
    reshard(module)
    summoned = _divided_in(module, recurse)
    if not summoned:
        yield
        return
    for each in summoned:
        each.whole = _gathered(each.parameter, rank0_only)
    for each in summoned:
        each.put(each.whole)
    try:
        yield
    except Exception as error:
        _restore(summoned)
        of_every_rank(f"{type(error).__name__}: {error}")
        raise
    except BaseException:  # an interrupt: the others get it too, and none can wait for them
        _restore(summoned)
        raise
    _restore(summoned)
    for rank, said in enumerate(of_every_rank(None)):
        if said is not None:
            raise AccelnbError(f"rank {rank} failed with the weights of all whole: {said}")
    if writeback:
        _write_back(module, summoned)


def _divided_in(module: nn.Module, recurse: bool) -> list[_Summoned]:
    names = {id(it): name for name, it in module.named_parameters()}
    found: dict[int, _Summoned] = {}
    for holder, key, tensor in slots(module):
        if is_dtensor(tensor) and id(tensor) in names and (recurse or holder is module):
            each = found.setdefault(id(tensor), _Summoned(names[id(tensor)], tensor))
            each.places.append((holder, key))
    return list(found.values())


def _gathered(parameter: Any, rank0_only: bool) -> torch.Tensor | None:
    with torch.no_grad():
        whole = parameter.full_tensor()
        if rank0_only and PartialState().process_index != 0:
            return None
        # On a mesh of one it would be the memory of the part itself.
        whole = whole.clone() if whole.data_ptr() == local_part(parameter).data_ptr() else whole
    return nn.Parameter(whole, parameter.requires_grad)


def _restore(summoned: list[_Summoned]) -> None:
    for each in summoned:
        each.put(each.parameter)


@torch.no_grad()
def _write_back(module: nn.Module, summoned: list[_Summoned]) -> None:
    """Keep what rank 0 has in the whole weights; of the others' it is seen whether they differ."""
    rank = PartialState().process_index
    changed, differs = set(), set()
    buffer = buffer_on(PartialState().device)
    for each in summoned:
        part, own = rows_of(local_part(each.parameter)), own_slices(each.parameter)
        source = each.whole if rank == 0 else None
        for rows, sent in blocks_from_rank_0(source, each.parameter, buffer):
            if each.whole is not None and not _same(rows_of(each.whole.detach())[rows], sent):
                differs.add(each.name)
            if found := overlap(rows, own[0]):
                there, here = found
                new = sent[there][(slice(None), *own[1:])]
                if not _same(part[here], new):
                    changed.add(each.name)
                part[here].copy_(new)
    of_ranks = of_every_rank((changed, differs))
    changed = set.union(*(seen for seen, _ in of_ranks))
    for rank, (_, different) in enumerate(of_ranks):
        if lost := sorted(different - changed):
            raise AccelnbError(
                f"rank {rank} changed whole weights of {class_name(module)} that rank 0 did not: "
                f"{some(lost)}; rank 0's count: change them there, or on all ranks"
            )


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    other = other.to(one.device)
    return torch.equal(one, other) or bool(((one == other) | (one != one) & (other != other)).all())


def refuse_copies(model: nn.Module) -> None:
    """Have ``copy.deepcopy`` of a divided model, where torch refuses it, say what to do instead."""
    if hasattr(model, "__deepcopy__"):
        model.__dict__["__deepcopy__"] = _refuse_copy


def _refuse_copy(*_: Any) -> Any:
    raise AccelnbError(
        "a model that is divided over processes cannot be copied: for an average of its weights "
        "(EMA) keep {k: v.clone() for k, v in model.state_dict().items()}, each process its part, "
        "and give it back with model.load_state_dict(average)"
    )
