"""Gradients over several batches: when they are averaged, scaled, clipped and applied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training import whereabouts
from accelnb.training.arguments import accumulation_steps
from accelnb.training.gradients import Accumulation, GradientState
from accelnb.training.parallel import repair
from accelnb.training.parallel.strategy import Strategy
from accelnb.training.parallel.swap import current
from accelnb.training.prepared import Prepared
from accelnb.training.scaler import Scaler


class AccumulationMethods:
    """The part of `Accelerator` that a training step calls.

    The work is done here and not in a part of its own, for a step shall not cost more calls.

    Attributes
    ----------
    gradient_state : GradientState
        Whether the batch in hand ends an accumulation.
    scaler : Scaler or None
        Of fp16 gradients.
    strategy : Strategy
        How the processes train one model.
    """

    gradient_state: GradientState
    scaler: Scaler | None
    strategy: Strategy
    loss_parallel: Callable[[], AbstractContextManager[None]]
    _accumulation: Accumulation
    _prepared: Prepared

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        """Use instead of ``loss.backward()``: scales for accumulation and fp16.

        Raises
        ------
        AccelnbError
            `loss` is not a tensor, or an earlier backward pass of a sharded model was cut short.
        """
        if not isinstance(loss, torch.Tensor):
            raise AccelnbError(
                f"backward() takes the loss as a tensor, not as {type(loss).__name__}: do not "
                "call .item() or float() on it before"
            )
        steps = self.gradient_state.plugin.num_steps
        if steps > 1:
            loss = loss / steps
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        self.strategy.began_backward()
        whereabouts.backward()
        models = self._prepared.models
        repair.refuse_half_done(models)
        try:
            with self.loss_parallel():
                loss.backward(**kwargs)
        except BaseException:  # an interrupt too
            repair.repair_half_done(models)
            raise

    def accumulate(self, *models: nn.Module) -> AbstractContextManager[Any]:
        """Return a context for one batch of an accumulation.

        In it, gradients of `models` are averaged over the ranks, and optimizers and schedulers
        step, only with the last batch of an accumulation and the last of the loader.
        """
        state, accumulation = self.gradient_state, self._accumulation
        whereabouts.accumulation()
        if state.sync_with_dataloader and state.end_of_dataloader:
            accumulation.step = 0
            state.sync_gradients = True
        else:
            accumulation.step += 1
            state.sync_gradients = accumulation.step % state.num_steps == 0
        if state.sync_gradients or state.plugin.sync_each_batch or not self.strategy.averages:
            return nullcontext()
        return self._without_sync(models)

    @contextmanager
    def _without_sync(self, models: Iterable[nn.Module]) -> Iterator[None]:
        with ExitStack() as stack:
            for model in models:
                stack.enter_context(self.strategy.no_sync(model))
            yield

    def no_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Return a context in which the gradients of `model` are not averaged."""
        return self.strategy.no_sync(model)

    def trigger_sync_in_backward(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Return a context whose backward passes average gradients of `no_sync` forwards."""
        return self.strategy.trigger_sync(model)

    @property
    def sync_gradients(self) -> bool:
        """Whether gradients are averaged, and optimizers step, with the batch in hand."""
        return self.gradient_state.sync_gradients

    @sync_gradients.setter
    def sync_gradients(self, value: bool) -> None:
        self.gradient_state.sync_gradients = value

    @property
    def gradient_accumulation_steps(self) -> int:
        return self.gradient_state.num_steps

    @gradient_accumulation_steps.setter
    def gradient_accumulation_steps(self, steps: int) -> None:
        self.gradient_state.plugin.num_steps = accumulation_steps(steps)

    @property
    def optimizer_step_was_skipped(self) -> bool:
        """Whether an optimizer's last step was left out because fp16 gradients overflowed."""
        return any(optimizer.step_was_skipped for optimizer in self._prepared.optimizers)

    def unscale_gradients(self, optimizer: Any = None) -> None:
        """Divide fp16 gradients by the scale, of all prepared optimizers or those given."""
        if self.scaler is None:
            return
        given = optimizer if isinstance(optimizer, list | tuple) else [optimizer]
        chosen = self._prepared.optimizers if optimizer is None else given
        for known in self._prepared.optimizers:
            if any(known is o or known.optimizer is o for o in chosen):
                known.unscale()

    def clip_grad_norm_(
        self,
        parameters: torch.Tensor | Iterable[torch.Tensor],
        max_norm: float,
        norm_type: float = 2,
    ) -> torch.Tensor:
        """Use instead of ``torch.nn.utils.clip_grad_norm_``; returns the norm before clipping.

        Call it when `sync_gradients` is set: before, gradients are not yet averaged.
        """
        clipped = self._complete(parameters)
        return self.strategy.clip_norm(clipped, max_norm, norm_type=norm_type)

    def clip_grad_value_(
        self, parameters: torch.Tensor | Iterable[torch.Tensor], clip_value: float
    ) -> None:
        """Use instead of ``torch.nn.utils.clip_grad_value_``."""
        self.strategy.clip_value(self._complete(parameters), clip_value)

    def _complete(
        self, parameters: torch.Tensor | Iterable[torch.Tensor]
    ) -> torch.Tensor | list[torch.Tensor]:
        """Make the gradients of `parameters` what the step will use, and return these."""
        as_they_are = self.scaler is None and not self.strategy.averages_late
        # Also for those that a list made before `prepare` holds: what has their place now.
        listed = current([parameters] if isinstance(parameters, torch.Tensor) else parameters)
        if as_they_are and isinstance(parameters, torch.Tensor):
            return listed[0]
        if not as_they_are:
            wanted = {id(parameter) for parameter in listed}
            for optimizer in self._prepared.optimizers:
                owned = (p for group in optimizer.param_groups for p in group["params"])
                if any(id(parameter) in wanted for parameter in owned):
                    optimizer.unscale()
                    if self.sync_gradients:
                        self.strategy.average_gradients(optimizer.optimizer)
        return listed
