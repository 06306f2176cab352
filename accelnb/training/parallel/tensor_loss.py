"""Losses of logits that stay divided over the classes, and so over tensor-parallel ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from accelnb.training.pytree import is_torch_tensor, recursively_apply

_depth = 0


@contextmanager
def loss_parallel() -> Iterator[None]:
    """Compute ``F.cross_entropy`` of divided logits in this context, and its backward pass.

    Unlike torch's, it may be entered again inside, and it ends with an exception too.
    """
    global _depth
    if _depth:
        yield
        return
    from torch.distributed.tensor.parallel import loss_parallel

    context = loss_parallel()
    context.__enter__()
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        context.__exit__(None, None, None)


def compute_losses_inside(model: nn.Module) -> None:
    """Have a model compute in `loss_parallel`, and return its losses as plain tensors."""
    from torch.distributed.tensor import DTensor

    entered: list[AbstractContextManager[None]] = []

    def enter(*_: Any) -> None:
        entered.append(loss_parallel())
        entered[-1].__enter__()

    def leave(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if entered:
            entered.pop().__exit__(None, None, None)
        return recursively_apply(plain_loss, output, test_type=is_torch_tensor)

    def plain_loss(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to_local() if isinstance(tensor, DTensor) and tensor.dim() == 0 else tensor

    model.register_forward_pre_hook(enter)
    model.register_forward_hook(leave, always_call=True)
