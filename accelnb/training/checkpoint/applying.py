"""The states of a checkpoint, checked before, put into the training."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

from accelnb.training.checkpoint import rng_states
from accelnb.training.checkpoint.contents import unwrapped
from accelnb.training.checkpoint.reading import Pairs, States
from accelnb.training.collective_errors import attempt, together

if TYPE_CHECKING:
    from accelnb.training.checkpoint.methods import CheckpointMethods


def apply(
    accelerator: CheckpointMethods,
    states: States,
    weights: list[tuple[nn.Module, dict[str, Any]]],
) -> None:
    """Put everything in its place. A collective.

    Objects of the user load themselves, and may refuse: they come first, and are put back if one
    does on any rank. The rest was checked and does not fail.
    """
    _load_or_put_back(accelerator, states.custom + states.loaders + states.schedulers)
    for model, state in weights:
        model.load_state_dict(state, strict=False)
    for optimizer, state in states.optimizers:
        optimizer.load_state_dict(state)
    if states.scaler is not None and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(states.scaler)
    accelerator.step = states.step
    _restore_gradients(accelerator, states)
    if states.rng is not None:
        rng_states.restore(states.rng, accelerator.device)


def _load_or_put_back(accelerator: CheckpointMethods, pairs: Pairs) -> None:
    before: Pairs = []

    def load() -> None:
        before.extend((thing, copy.deepcopy(thing.state_dict())) for thing, _ in pairs)
        for thing, state in pairs:
            thing.load_state_dict(state)

    _, failure = attempt(lambda: together(accelerator, load))
    if failure is None:
        return
    for thing, state in before:
        thing.load_state_dict(state)
    raise failure


def _restore_gradients(accelerator: CheckpointMethods, states: States) -> None:
    """Set the gradients of an accumulation that was not complete, and no others."""
    for index, model in enumerate(accelerator._models):
        held = states.gradients[index] if states.gradients else {}
        for name, parameter in unwrapped(model).named_parameters():
            gradient = held.get(name)
            parameter.grad = None if gradient is None else gradient.to(parameter.device)
