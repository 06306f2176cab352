"""Models without values (the meta device): each process gets its part, none the whole.

What rank 0 has values for is taken aside, the model is divided on the meta device, and each
process's part is allocated and filled: a tensor at a time.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.collective_errors import of_every_rank
from accelnb.training.parallel.slices import (
    class_name,
    held,
    is_dtensor,
    put,
    send_from_rank_0,
    slots,
)
from accelnb.training.state import PartialState


@dataclass
class FromRank0:
    """Tensors of which rank 0 has the values; each with the places that hold it in the model."""

    places: list[list[tuple[nn.Module, str]]]
    values: list[torch.Tensor | None]


def named_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's parameters and buffers by name, tied ones once."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def without_values(model: nn.Module) -> list[str]:
    """Return the names of the parameters and buffers that are on the meta device.

    Examples
    --------
    >>> import torch
    >>> from accelnb.training.parallel.fill import without_values
    >>> without_values(torch.nn.Linear(2, 1, device="meta"))
    ['weight', 'bias']
    """
    return [name for name, tensor in named_tensors(model).items() if tensor.is_meta]


# ---- values that rank 0 has ----


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
    of_ranks = of_every_rank((shapes, meta))
    _refuse_other_models(model, [its for its, _ in of_ranks])
    absent = [its for _, its in of_ranks]
    if strange := sorted(absent[0] - set.intersection(*absent)):
        rank = next(r for r, its in enumerate(absent) if strange[0] not in its)
        raise AccelnbError(
            f"rank {rank} has values for {some(strange)}, and rank 0 has none (meta device): give "
            "rank 0 the values, or none of the ranks"
        )
    wanted = set(named) if everything else set.union(*absent)
    wanted -= {name for name, it in named.items() if is_dtensor(it)}  # each has its part
    return _taken(model, {id(named[name]) for name in wanted - absent[0]})


def _refuse_other_models(model: nn.Module, shapes: list[dict[str, Any]]) -> None:
    for rank, its in enumerate(shapes):
        different = [name for name in (*shapes[0], *its) if shapes[0].get(name) != its.get(name)]
        if different:
            raise AccelnbError(
                f"rank {rank}'s {class_name(model)} is another one than rank 0's: "
                f"{some(different)} differ in name, shape or dtype; make one model on all ranks"
            )


def _taken(model: nn.Module, wanted: set[int]) -> FromRank0:
    """Put tensors without values in the places of those wanted, one for tied ones."""
    has_values = PartialState().process_index == 0
    number: dict[int, int] = {}
    empty: list[torch.Tensor] = []
    taken = FromRank0([], [])
    for module, key, tensor in list(slots(model)):
        if id(tensor) not in wanted:
            continue
        if id(tensor) not in number:
            number[id(tensor)] = len(empty)
            empty.append(_on_meta(tensor))
            taken.places.append([])
            taken.values.append(tensor.detach() if has_values else None)
        i = number[id(tensor)]
        taken.places[i].append((module, key))
        put(module, key, empty[i])
    return taken


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_meta:
        return tensor
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
    allocate(model, targets, device)
    for i, places in enumerate(taken.places):
        send_from_rank_0(taken.values[i], held(*places[0]), device)
        taken.values[i] = None


def allocate(model: nn.Module, tensors: Iterable[torch.Tensor], device: torch.device) -> None:
    """Give memory to this process's parts of tensors that have none. They are not filled.

    Parameters stay the objects that they are: optimizers go on with them, and tied ones are tied.
    """
    device = torch.device("cpu") if _lies_on_cpu(model) else device
    _move(model, [tensor for tensor in tensors if tensor.is_meta], device)


def forget(model: nn.Module, tensors: Iterable[torch.Tensor]) -> None:
    """Take away the memory of tensors that were allocated and cannot be filled."""
    _move(model, tensors, torch.device("meta"))


def _move(model: nn.Module, tensors: Iterable[torch.Tensor], device: torch.device) -> None:
    moved: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for tensor in tensors:
        empty = torch.empty_like(tensor, device=device)
        if isinstance(tensor, nn.Parameter) and not is_dtensor(tensor):
            torch.utils.swap_tensors(tensor, nn.Parameter(empty, tensor.requires_grad))
        else:
            moved[id(tensor)] = tensor, empty
    # It tells what has divided the model of the new memory, and keeps DTensors the objects that
    # they are: a tied one is moved already where it comes again.
    model._apply(lambda it: moved[id(it)][1] if id(it) in moved and it.device != device else it)


def _lies_on_cpu(model: nn.Module) -> bool:
    """Return whether a model's parts lie on the CPU while it computes on another device."""
    states = (getattr(module, "_get_fsdp_state", None) for module in model.modules())
    groups = (group for state in states if state for group in state()._fsdp_param_groups)
    return any(part.offload_to_cpu for group in groups for part in group.fsdp_params)


# ---- what is left ----


def refuse_to_run_without_values(model: nn.Module) -> None:
    """Have the model's next forward pass refuse what has no values, until all have.

    A collective is not needed: the processes' models lack the same.
    """
    if not without_values(model):
        return
    of_model = weakref.ref(model)

    def check(module: nn.Module, *_: Any) -> None:
        its = of_model()
        if its is not None and (names := without_values(its)):
            raise AccelnbError(no_values(its, names))
        handle.remove()

    handle = model.register_forward_pre_hook(check, prepend=True)


def no_values(model: nn.Module, names: list[str]) -> str:
    """Return what to say of tensors that have no values yet."""
    return (
        f"this {class_name(model)} has no values for {some(names)} (meta device): load them "
        "with accelnb.utils.load_checkpoint_in_model(model, folder), or have them drawn with "
        "accelnb.utils.initialize_weights(model)"
    )


def some(names: list[str]) -> str:
    """Return the first of the names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
