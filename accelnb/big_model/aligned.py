"""A module's weights brought to it outside of a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from accelnb.big_model.attaching import align_hooks
from accelnb.big_model.places import Place
from accelnb.big_model.placing import set_module_tensor_to_device


@contextmanager
def align_module_device(module: nn.Module, execution_device: Place | None = None) -> Iterator[None]:
    """Return a context in which a module's own weights are where it computes.

    Parameters
    ----------
    execution_device
        Bring them there instead.

    Examples
    --------
    >>> import torch
    >>> from accelnb import cpu_offload
    >>> from accelnb.utils import align_module_device
    >>> layer = cpu_offload(torch.nn.Linear(2, 1))
    >>> with align_module_device(layer):
    ...     layer.weight.device
    device(type='cpu')
    >>> layer.weight.device
    device(type='meta')
    """
    hooks = [hook for hook in align_hooks(module) if hook.offload]
    if hooks:
        with _brought(module, hooks[0], execution_device):
            yield
    elif execution_device is not None:
        with _moved(module, execution_device):
            yield
    else:
        yield


@contextmanager
def _brought(module: nn.Module, hook, device: Place | None) -> Iterator[None]:
    own = hook.execution_device
    hook.execution_device = own if device is None else device
    try:
        hook.pre_forward(module)
        yield
    finally:
        hook.post_forward(module, None)
        hook.execution_device = own


@contextmanager
def _moved(module: nn.Module, device: Place) -> Iterator[None]:
    before = {name: parameter.device for name, parameter in module.named_parameters(recurse=False)}
    try:
        for name in before:
            set_module_tensor_to_device(module, name, device)
        yield
    finally:
        for name, place in before.items():
            set_module_tensor_to_device(module, name, place)
