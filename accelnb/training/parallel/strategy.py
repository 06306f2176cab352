"""What the Accelerator asks of the way in which processes train a model together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training import norms
from accelnb.training.dtensors import has_dtensors
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.offloaded import with_offloaded
from accelnb.training.parallel.plan import Plan


class Strategy:
    """How processes train one model together. This one trains its own, and asks no other.

    Other strategies refine it. What each has done to a model it reads from the model, which may
    come from another Accelerator.
    """

    # Whether the gradients of several processes are averaged.
    averages = False
    # Whether that is done by `average_gradients`, not in the backward pass.
    averages_late = False
    # Whether each process has only a part of a model's weights.
    shards = False

    @classmethod
    def on(cls, mesh: Mesh, plan: Plan) -> Strategy:
        """Return the strategy for the models of a plan on a mesh.

        Raises
        ------
        AccelnbError
            It cannot train there.
        """
        return cls()

    # ---- a model ----

    @staticmethod
    def apply(model: nn.Module, mesh: Mesh, plan: Plan) -> nn.Module:
        """Return the model that trains together with those of the other processes.

        Raises
        ------
        AccelnbError
            It cannot.
        """
        return model

    def has_wrapped(self, model: nn.Module) -> bool:
        """Return whether a model that was prepared before can train as it is."""
        return True

    def release(self, model: nn.Module) -> None:
        """Undo what was done to the model inside, so that it can be prepared anew."""

    def state_dict(self, model: nn.Module) -> dict[str, Any]:
        """Return the whole state dict of an unwrapped model; a collective if it is sharded."""
        if not is_sharded(model):
            return with_offloaded(model, model.state_dict())
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_model_state_dict(model, options=options)

    # ---- a step ----

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

    def clip_norm(self, parameters: Any, max_norm: float, norm_type: float) -> torch.Tensor:
        """Scale gradients down to a norm; return what it was."""
        return norms.clip_grad_norm(parameters, max_norm, norm_type)

    def clip_value(self, parameters: Any, clip_value: float) -> None:
        """Bound each element of gradients."""
        norms.clip_grad_value(parameters, clip_value)

    def step(self, optimizer: torch.optim.Optimizer, closure: Callable[[], Any] | None) -> Any:
        """Have an optimizer step with averaged gradients; return what its closure does."""
        return optimizer.step(closure)

    def join(self, joinables: Sequence[Any], enable: bool) -> AbstractContextManager[Any]:
        """Return a context in which processes that ran out of batches wait for the others.

        Raises
        ------
        AccelnbError
            A model is sharded: all processes take part in each of its passes.
        """
        if enable and any(is_sharded(model) for model in joinables):
            raise AccelnbError(
                "join_uneven_inputs: every process takes part in every pass of a sharded model: "
                "leave even_batches=True"
            )
        return nullcontext()


def is_sharded(model: nn.Module) -> bool:
    """Return whether a model's weights are DTensors."""
    return has_dtensors(model.parameters())
