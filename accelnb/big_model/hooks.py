"""Hooks around the forward pass of a module, which also see its keyword arguments."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.fx import GraphModule

# Methods that `dispatch_model` gives a model of its own: see `moving.py`.
MOVING = ("to", "cpu", "cuda", "xpu", "npu", "mlu", "musa", "sdaa", "hpu", "neuron")

_Function = TypeVar("_Function", bound=Callable[..., Any])


def not_compiled(function: _Function) -> _Function:
    """Have ``torch.compile`` leave a function as it is, without importing it for that."""
    ready: list[Any] = []

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" not in sys.modules:  # which takes seconds to import
            return function(*args, **kwargs)
        if not ready:
            ready.append(torch.compiler.disable(function))
        return ready[0](*args, **kwargs)

    return called  # pyright: ignore[reportReturnType]


class ModelHook:
    """What is done before and after the forward pass of a module: nothing here.

    Attributes
    ----------
    no_grad : bool
        Whether the forward pass runs under ``torch.no_grad()``.

    Examples
    --------
    >>> import torch
    >>> from accelnb.big_model.hooks import ModelHook, add_hook_to_module
    >>> class Doubled(ModelHook):
    ...     def post_forward(self, module, output):
    ...         return output * 2
    >>> layer = add_hook_to_module(torch.nn.Identity(), Doubled())
    >>> layer(torch.ones(2))
    tensor([2., 2.])
    """

    no_grad = False

    def init_hook(self, module: nn.Module) -> nn.Module:
        """Called when the hook is attached; returns the module."""
        return module

    def pre_forward(
        self, module: nn.Module, *args: Any, **kwargs: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments that the forward pass gets."""
        return args, kwargs

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        """Return what the forward pass returns."""
        return output

    def detach_hook(self, module: nn.Module) -> nn.Module:
        """Called when the hook is taken off; returns the module."""
        return module


class SequentialHook(ModelHook):
    """Several hooks, each called after the one before it.

    Without gradients if one of them wants none.
    """

    def __init__(self, *hooks: ModelHook) -> None:
        self.hooks = hooks
        self.no_grad = any(hook.no_grad for hook in hooks)

    def init_hook(self, module: nn.Module) -> nn.Module:
        for hook in self.hooks:
            module = hook.init_hook(module)
        return module

    @not_compiled
    def pre_forward(
        self, module: nn.Module, *args: Any, **kwargs: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        for hook in self.hooks:
            args, kwargs = hook.pre_forward(module, *args, **kwargs)
        return args, kwargs

    @not_compiled
    def post_forward(self, module: nn.Module, output: Any) -> Any:
        for hook in self.hooks:
            output = hook.post_forward(module, output)
        return output

    def detach_hook(self, module: nn.Module) -> nn.Module:
        for hook in self.hooks:
            module = hook.detach_hook(module)
        return module


def add_hook_to_module(module: nn.Module, hook: ModelHook, append: bool = False) -> nn.Module:
    """Attach a hook to a module, whose forward pass then goes through it.

    Parameters
    ----------
    append
        Call it after the hook that is there, in a `SequentialHook`. Otherwise it takes the other's
        place.

    Returns
    -------
    module
        The same.

    Examples
    --------
    >>> import torch
    >>> from accelnb.big_model.hooks import ModelHook, add_hook_to_module
    >>> layer = add_hook_to_module(torch.nn.Linear(2, 2), ModelHook())
    >>> layer = add_hook_to_module(layer, ModelHook(), append=True)
    >>> len(layer._hf_hook.hooks)
    2
    """
    module = hook.init_hook(module)
    before = getattr(module, "_hf_hook", None)
    together = SequentialHook(before, hook) if append and before is not None else hook
    state = vars(module)
    state["_hf_hook"] = together
    if "_old_forward" not in state:
        state["_old_forward"] = module.forward
    forward = functools.partial(_forward, module)
    _set_forward(module, functools.update_wrapper(forward, state["_old_forward"]))
    return module


def _forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    its: Any = module
    args, kwargs = its._hf_hook.pre_forward(module, *args, **kwargs)
    if its._hf_hook.no_grad:
        with torch.no_grad():
            output = its._old_forward(*args, **kwargs)
    else:
        output = its._old_forward(*args, **kwargs)
    return its._hf_hook.post_forward(module, output)


def _set_forward(module: nn.Module, forward: Any) -> None:
    """Set what a module computes, where `recompile` of a graph sets it too."""
    if isinstance(module, GraphModule):  # each has a class of its own
        type(module).forward = forward
    else:
        module.forward = forward


def remove_hook_from_module(module: nn.Module, recurse: bool = False) -> nn.Module:
    """Take the hook off a module, and give it its own forward pass again.

    Weights that the hook kept elsewhere come back to where they were.

    Parameters
    ----------
    recurse
        Also those of all modules in it.

    Examples
    --------
    >>> import torch
    >>> from accelnb.big_model.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
    >>> layer = add_hook_to_module(torch.nn.Linear(2, 2), ModelHook())
    >>> hasattr(remove_hook_from_module(layer), "_hf_hook")
    False
    """
    state = vars(module)
    if "_hf_hook" in state:
        state["_hf_hook"].detach_hook(module)
        del state["_hf_hook"]
    if "_old_forward" in state:
        _restore_forward(module, state.pop("_old_forward"))
    for name in MOVING:
        state.pop(name, None)
    if recurse:
        for child in module.children():
            remove_hook_from_module(child, recurse)
    return module


def _restore_forward(module: nn.Module, old: Any) -> None:
    function = getattr(old, "__func__", None)
    if isinstance(module, GraphModule):
        type(module).forward = function or old
    elif function is not None and function is getattr(type(module), "forward", None):
        vars(module).pop("forward", None)
    else:
        module.forward = old


def remove_hook_from_submodules(module: nn.Module) -> None:
    """Take the hooks off a module and all modules in it."""
    remove_hook_from_module(module, recurse=True)
