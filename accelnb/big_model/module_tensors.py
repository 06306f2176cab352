"""Which tensors a module holds, and where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from accelnb.big_model.errors import BigModelError


def named_module_tensors(
    module: nn.Module,
    include_buffers: bool = True,
    recurse: bool = False,
    remove_non_persistent: bool = False,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a module's parameters and then its buffers, with their names.

    Parameters
    ----------
    recurse
        Those of the modules in it too.
    remove_non_persistent
        Without buffers that a state dict leaves out.

    Examples
    --------
    >>> from torch import nn
    >>> from accelnb.utils import named_module_tensors
    >>> [name for name, _ in named_module_tensors(nn.BatchNorm1d(4))]
    ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    """
    yield from module.named_parameters(recurse=recurse)
    if not include_buffers:
        return
    left_out = _non_persistent(module, recurse) if remove_non_persistent else set()
    for name, buffer in module.named_buffers(recurse=recurse):
        if name not in left_out:
            yield name, buffer


def get_non_persistent_buffers(
    module: nn.Module, recurse: bool = False, fqns: bool = False
) -> set[str]:
    """Return the names of the buffers that a module's state dict leaves out.

    Parameters
    ----------
    recurse
        Those of the modules in it too.
    fqns
        Then each with the name of its module before it.

    Examples
    --------
    >>> import torch
    >>> from accelnb.utils import get_non_persistent_buffers
    >>> module = torch.nn.Module()
    >>> module.register_buffer("mask", torch.ones(2), persistent=False)
    >>> get_non_persistent_buffers(module)
    {'mask'}
    """
    names = _non_persistent(module, recurse)
    return names if fqns else {name.rpartition(".")[2] for name in names}


def _non_persistent(module: nn.Module, recurse: bool) -> set[str]:
    modules = module.named_modules() if recurse else [("", module)]
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, its in modules
        for name in its._non_persistent_buffers_set
    }


def owner_of(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that holds a tensor, and what the tensor is called in it.

    Raises
    ------
    BigModelError
        There is no such tensor.
    """
    path, _, key = name.rpartition(".")
    try:
        owner = module.get_submodule(path)
    except AttributeError:
        raise BigModelError(f"{type(module).__name__} has no module {path}, of {name}") from None
    if key not in owner._parameters and key not in owner._buffers:
        raise BigModelError(f"{type(module).__name__} has no parameter or buffer {name}")
    return owner, key


def has_offloaded_params(module: nn.Module) -> bool:
    """Return whether a hook brings a module's weights for each forward pass.

    Examples
    --------
    >>> from torch import nn
    >>> from accelnb.utils import has_offloaded_params
    >>> has_offloaded_params(nn.Linear(2, 2))
    False
    """
    hook: Any = getattr(module, "_hf_hook", None)
    return getattr(hook, "offload", False) is True
