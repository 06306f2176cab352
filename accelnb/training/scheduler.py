"""A learning rate scheduler that follows the optimizer's steps."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from accelnb.training.gradients import GradientState
from accelnb.training.optimizer import AcceleratedOptimizer


class AcceleratedScheduler:
    """What `Accelerator.prepare` makes of a scheduler.

    It steps when the optimizer does: not between the batches of an accumulation, and not when a
    step was skipped.

    Parameters
    ----------
    scheduler
        The one that was prepared.
    optimizers
        Those whose skipped steps it follows.
    step_with_optimizer
        If not, `step` is the scheduler's own.
    steps_per_update
        How often it steps for one step of the optimizer. Accelerate's meaning is the number of
        processes: a schedule written for one process then ends with as many samples, in fewer
        optimizer steps. 1 fits a schedule whose length is counted in optimizer steps.
    """

    def __init__(
        self,
        scheduler: Any,
        optimizers: AcceleratedOptimizer | Sequence[AcceleratedOptimizer],
        step_with_optimizer: bool = True,
        steps_per_update: int = 1,
    ) -> None:
        self.scheduler = scheduler
        self.optimizers = list(optimizers) if isinstance(optimizers, Sequence) else [optimizers]
        self.step_with_optimizer = step_with_optimizer
        self.steps_per_update = steps_per_update
        self.gradient_state = GradientState()
        if isinstance(optimizer := getattr(scheduler, "optimizer", None), torch.optim.Optimizer):
            _note_steps(optimizer)

    def step(self, *args: Any, **kwargs: Any) -> None:
        if not self.step_with_optimizer:
            self.scheduler.step(*args, **kwargs)
            return
        if not self.gradient_state.sync_gradients:
            if self.gradient_state.adjust_scheduler and hasattr(self.scheduler, "_step_count"):
                self.scheduler._step_count += 1  # or torch warns that the optimizer did not step
            return
        if any(optimizer.step_was_skipped for optimizer in self.optimizers):
            return
        # A plateau is found in measurements, and this is one, however many processes there are.
        is_plateau = isinstance(self.scheduler, ReduceLROnPlateau)
        for _ in range(1 if is_plateau else self.steps_per_update):
            if not self._has_ended():
                self.scheduler.step(*args, **kwargs)

    def _has_ended(self) -> bool:
        # OneCycleLR raises when it is stepped past its end, which several steps at once can do.
        total = getattr(self.scheduler, "total_steps", None)
        return total is not None and self.scheduler._step_count > total

    def get_last_lr(self) -> list[float]:
        return self.scheduler.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state_dict)

    def __getattr__(self, name: str) -> Any:
        if name == "scheduler":  # before it is there, as when a copy is made
            raise AttributeError(name)
        return getattr(self.scheduler, name)


def _note_steps(optimizer: torch.optim.Optimizer) -> None:
    """Do what a scheduler did to its optimizer's `step`, if that was lost, as by pickling.

    Without it torch warns that the optimizer does not step.
    """
    if hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        return
    own, reference = type(optimizer).step, weakref.ref(optimizer)

    @functools.wraps(own)
    def step(*args: Any, **kwargs: Any) -> Any:
        optimizer: Any = reference()
        optimizer._opt_called = True
        return own(optimizer, *args, **kwargs)

    step.__dict__["_wrapped_by_lr_sched"] = True
    optimizer.__dict__["step"] = step
