"""What a strategy does for the Accelerator, and the one for a single process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn


class SingleProcess:
    """Train on one device: nothing is wrapped. Also what other strategies refine."""

    # Whether gradients are averaged by `average_gradients`, not in the backward pass.
    averages_late = False

    def place(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return the model, moved to a device."""
        return model.to(device)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model that trains together with those of the other processes."""
        return model

    def has_wrapped(self, model: nn.Module) -> bool:
        """Return whether a model that was prepared before can train as it is."""
        return True

    def release(self, model: nn.Module) -> None:
        """Undo what `wrap` did to the model inside, so that it can be wrapped anew."""

    def no_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Return a context in which gradients stay on this process."""
        return nullcontext()

    @contextmanager
    def trigger_sync(self, model: nn.Module) -> Iterator[None]:
        """Average gradients in the next backward pass, though its forward pass was `no_sync`."""
        yield

    def began_backward(self) -> None:
        """Take note that gradients are added to."""

    def average_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Average the gradients of an optimizer, unless that was done since the backward pass."""

    def step(self, optimizer: torch.optim.Optimizer, closure: Callable[[], Any] | None) -> Any:
        """Have an optimizer step with averaged gradients; return what its closure does."""
        return optimizer.step(closure)

    def join(self, joinables: Sequence[Any], enable: bool) -> AbstractContextManager[Any]:
        """Return a context in which processes that ran out of batches wait for the others."""
        return nullcontext()
