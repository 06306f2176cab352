"""Outputs of sharded modules that must not be changed in place, and an error where they are."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only


def forbid_changes(module: nn.Module) -> None:
    """Have autograd refuse to change in place what a module returns, where that is a view.

    torch then forgets the hook by which the module's backward pass begins, and its gradients are
    wrong or missing. A linear layer returns a view of what it computes for a batch of sequences.
    Call it before ``fully_shard``.
    """
    module.register_forward_hook(_guarded)
    # What it warns of is an error now.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")


class OutputOfShardedModule(torch.autograd.Function):
    """The same tensor; autograd allows no change in place to views that a function returns."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:  # pyright: ignore
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # pyright: ignore
        return gradient


def _guarded(module: nn.Module, arguments: Any, outputs: Any) -> Any:
    return tree_map_only(torch.Tensor, _guard, outputs)


def _guard(tensor: torch.Tensor) -> torch.Tensor:
    if not (tensor.requires_grad and tensor._is_view()):
        return tensor
    return OutputOfShardedModule.apply(tensor)  # pyright: ignore[reportReturnType]
