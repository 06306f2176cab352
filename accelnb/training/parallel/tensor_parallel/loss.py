"""Losses of logits that stay divided over the classes, and so over tensor-parallel ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_depth = 0


@contextmanager
def loss_parallel() -> Iterator[None]:
    """Compute ``F.cross_entropy`` of divided logits in this context, and its backward pass.

    Unlike torch's, it may be entered again inside, it ends with an exception too, and what
    ``F.cross_entropy`` returns is a plain tensor, the same on all ranks that have the logits.
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
        with _PlainLosses():
            yield
    finally:
        _depth -= 1
        context.__exit__(None, None, None)


class _PlainLosses(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        return result.to_local() if func is F.cross_entropy and _is_whole(result) else result


def _is_whole(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is a DTensor that each rank has whole."""
    placements = getattr(tensor, "placements", ())
    return bool(placements) and all(placement.is_replicate() for placement in placements)


def compute_losses_inside(model: nn.Module) -> None:
    """Have a model that returns its loss compute it in `loss_parallel`."""
    entered: list[AbstractContextManager[None]] = []

    def enter(*_: Any) -> None:
        entered.append(loss_parallel())
        entered[-1].__enter__()

    def leave(*_: Any) -> None:
        if entered:
            entered.pop().__exit__(None, None, None)

    model.register_forward_pre_hook(enter)
    model.register_forward_hook(leave, always_call=True)
