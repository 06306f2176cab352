"""The states of a checkpoint, checked before, put into the training."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from accelnb.training.checkpoint import rng_states, unfinished_gradients
from accelnb.training.checkpoint.contents import Training
from accelnb.training.checkpoint.reading import Pairs, States
from accelnb.training.collective_errors import attempt, together
from accelnb.training.parallel.meta_start.without_values import allocate, named_tensors
from accelnb.training.quantized import without_scales
from accelnb.training.state import PartialState


def apply(
    training: Training,
    states: States,
    weights: list[tuple[nn.Module, dict[str, Any]]],
) -> None:
    """Put everything in its place. A collective.

    Objects of the user load themselves, and may refuse: they come first, and are put back if one
    does on any rank. The rest was checked and does not fail.
    """
    _load_or_put_back(states.custom + states.loaders + states.schedulers)
    for model, state in weights:
        load_weights_into(model, state)
    for optimizer, state in states.optimizers:
        optimizer.load_state_dict(state)
    if states.scaler is not None and training.scaler is not None:
        training.scaler.load_state_dict(states.scaler)
    training.accumulation.step = states.step
    unfinished_gradients.restore(training.models, states.gradients)
    if states.rng is not None:
        rng_states.restore(states.rng, training.process.device)


def load_weights_into(model: nn.Module, state: dict[str, Any]) -> None:
    """Copy weights that were checked before, whole ones or this rank's parts, into a model."""
    empty = {name: it for name, it in named_tensors(model).items() if it.is_meta}
    allocate(model, [it for name, it in empty.items() if name in state], PartialState().device)
    model.load_state_dict(without_scales(model, state), strict=False)


def _load_or_put_back(pairs: Pairs) -> None:
    before: Pairs = []

    def load() -> None:
        before.extend((thing, copy.deepcopy(thing.state_dict())) for thing, _ in pairs)
        for thing, state in pairs:
            thing.load_state_dict(state)

    _, failure = attempt(lambda: together(load))
    if failure is None:
        return
    for thing, state in before:
        thing.load_state_dict(state)
    raise failure
