"""Tensors of a model that have no values: which they are, and memory for them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.dtensors import is_dtensor
from accelnb.training.parallel.offloaded import offloaded
from accelnb.training.parallel.slices import class_name


def named_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's parameters and buffers by name, tied ones once."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def without_values(model: nn.Module) -> list[str]:
    """Return the names of the parameters and buffers that are on the meta device.

    Those that a hook brings from CPU or disk have values.

    Examples
    --------
    >>> import torch
    >>> from accelnb.training.parallel.meta_start.without_values import without_values
    >>> without_values(torch.nn.Linear(2, 1, device="meta"))
    ['weight', 'bias']
    """
    empty = [name for name, tensor in named_tensors(model).items() if tensor.is_meta]
    elsewhere = offloaded(model) if empty else {}
    return [name for name in empty if name not in elsewhere]


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
            # Its hooks are called only once they are set again: that of `AveragedGradients`, say.
            tensor._post_accumulate_grad_hooks = tensor._post_accumulate_grad_hooks
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

    not_compiled: Any = torch.compiler.disable(check)
    handle = model.register_forward_pre_hook(not_compiled, prepend=True)


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
