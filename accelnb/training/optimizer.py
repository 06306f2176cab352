"""An optimizer that steps only when an accumulation is complete."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch

from accelnb.errors import AccelnbError
from accelnb.training.gradients import GradientState
from accelnb.training.parallel.strategy import Strategy
from accelnb.training.scaler import Scaler


def _of_the_optimizer(name: str) -> Any:
    return property(
        attrgetter(f"optimizer.{name}"), lambda self, value: setattr(self.optimizer, name, value)
    )


class AcceleratedOptimizer(torch.optim.Optimizer):
    """What `Accelerator.prepare` makes of an optimizer.

    `step` and `zero_grad` do nothing between the batches of an accumulation. In fp16, `step`
    goes through the scaler, which leaves it out when gradients overflowed. Everything else is the
    optimizer's own.

    Attributes
    ----------
    optimizer : torch.optim.Optimizer
        The one that was prepared.
    scaler : Scaler or None
    strategy : Strategy
        How its processes train together.
    step_was_skipped : bool
        Whether the last step was left out because gradients overflowed.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        device_placement: bool = True,
        scaler: Scaler | None = None,
        strategy: Strategy | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.scaler = scaler
        self.strategy = strategy or Strategy()
        self.gradient_state = GradientState()
        self.step_was_skipped = False
        arguments = inspect.signature(optimizer.zero_grad).parameters
        self._takes_set_to_none = "set_to_none" in arguments
        if device_placement and optimizer.state:
            # Puts each tensor where its parameter is now, but for counts that belong on the CPU.
            optimizer.load_state_dict(optimizer.state_dict())

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore
        if not self.gradient_state.sync_gradients:
            return None
        if self.scaler is None:
            return self.strategy.step(self.optimizer, closure)
        if closure is not None:
            raise AccelnbError(
                "mixed_precision=fp16: an optimizer that takes a closure, as LBFGS, computes "
                "losses within its step, and these cannot be scaled: use bf16 or no"
            )
        self.unscale()
        self.step_was_skipped = self.scaler.overflowed(self.optimizer)
        return self.scaler.step(self.optimizer)

    def zero_grad(self, set_to_none: bool = True) -> None:
        if not self.gradient_state.sync_gradients:
            return
        if self._takes_set_to_none:
            self.optimizer.zero_grad(set_to_none=set_to_none)
        else:
            self.optimizer.zero_grad()

    def unscale(self) -> None:
        """Divide the gradients by the scale, once before each step.

        Raises
        ------
        AccelnbError
            More gradients are to be added before the step: those are still scaled.
        """
        if self.scaler is None or not self.scaler.is_enabled():
            return
        if not self.gradient_state.sync_gradients:
            raise AccelnbError(
                "fp16 gradients cannot be clipped or unscaled before the last batch of an "
                "accumulation: do it only if accelerator.sync_gradients"
            )
        self.scaler.unscale_once(self.optimizer)

    # ---- the optimizer's own ----

    state: Any = _of_the_optimizer("state")
    param_groups: Any = _of_the_optimizer("param_groups")
    defaults: Any = _of_the_optimizer("defaults")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state_dict)

    def train(self) -> None:
        """Of schedule-free optimizers: go on training."""
        if hasattr(self.optimizer, "train"):
            self.optimizer.train()  # pyright: ignore[reportAttributeAccessIssue]

    def eval(self) -> None:
        """Of schedule-free optimizers: use the weights for evaluation."""
        if hasattr(self.optimizer, "eval"):
            self.optimizer.eval()  # pyright: ignore[reportAttributeAccessIssue]

    def __repr__(self) -> str:
        return f"AcceleratedOptimizer({self.optimizer!r})"

    def __getattr__(self, name: str) -> Any:
        if name == "optimizer":  # before it is there, as when a copy is made
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
