"""An optimizer that steps only when an accumulation is complete."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from accelnb.training.gradients import GradientState
from accelnb.training.nested import send_to_device


class AcceleratedOptimizer(torch.optim.Optimizer):
    """What `Accelerator.prepare` makes of an optimizer.

    `step` and `zero_grad` do nothing between the batches of an accumulation. In fp16, `step`
    goes through the scaler, which leaves it out when gradients overflowed. Everything else is the
    optimizer's own.

    Attributes
    ----------
    optimizer : torch.optim.Optimizer
        The one that was prepared.
    scaler : torch.amp.GradScaler or None
    step_was_skipped : bool
        Whether the last step was left out because gradients overflowed.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        device: torch.device | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.scaler = scaler
        self.gradient_state = GradientState()
        self.step_was_skipped = False
        self._unscaled = False
        arguments = inspect.signature(optimizer.zero_grad).parameters
        self._takes_set_to_none = "set_to_none" in arguments
        if device is not None and optimizer.state:
            optimizer.load_state_dict(send_to_device(optimizer.state_dict(), device))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore
        if not self.gradient_state.sync_gradients:
            return None
        if self.scaler is None:
            return self.optimizer.step(closure)
        self._unscaled = False
        scale = self.scaler.get_scale()
        result = self.scaler.step(self.optimizer, *([closure] if closure else []))
        self.scaler.update()
        self.step_was_skipped = self.scaler.get_scale() < scale
        return result

    def zero_grad(self, set_to_none: bool = True) -> None:
        if not self.gradient_state.sync_gradients:
            return
        if self._takes_set_to_none:
            self.optimizer.zero_grad(set_to_none=set_to_none)
        else:
            self.optimizer.zero_grad()

    def unscale(self) -> None:
        """Divide the gradients by the scale, once before each step."""
        if self.scaler is not None and not self._unscaled:
            self._unscaled = True
            self.scaler.unscale_(self.optimizer)

    # ---- the optimizer's own ----

    @property
    def state(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.optimizer.state

    @state.setter
    def state(self, value: Any) -> None:
        self.optimizer.state = value

    @property
    def param_groups(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, value: Any) -> None:
        self.optimizer.param_groups = value

    @property
    def defaults(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.optimizer.defaults

    @defaults.setter
    def defaults(self, value: Any) -> None:
        self.optimizer.defaults = value

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
