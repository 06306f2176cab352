"""What a strategy does for the Accelerator, and the one for a single process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn


class SingleProcess:
    """Train on one device: nothing is wrapped. Also what other strategies refine."""

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

    def join(self, joinables: Sequence[Any], enable: bool) -> AbstractContextManager[Any]:
        """Return a context in which processes that ran out of batches wait for the others."""
        return nullcontext()
