"""Where a loader is in its epoch, and what fixes the order of that epoch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from accelnb.errors import AccelnbError

_NUMBERS = ("epoch", "batches", "process_index", "num_processes", "total_batch_size")
_KEYS = {*_NUMBERS, "seed", "sampler_rng", "torch_rng", "inner"}


@dataclass
class Progress:
    """A loader's place. Copies of the loader that skip batches share it.

    Attributes
    ----------
    iteration : int
        The number of the epoch that is running, or comes next.
    batches : int
        Handed out in the running epoch, with those skipped; 0 between epochs.
    order : dict
        What fixed the order when the running epoch began; empty between epochs.
    inner : dict or None
        The state of torchdata's loader after those batches, where one is used.
    resumed : dict or None
        A loaded state, until the next iteration uses it.
    """

    iteration: int = 0
    batches: int = 0
    order: dict[str, Any] = field(default_factory=dict)
    inner: dict[str, Any] | None = None
    resumed: dict[str, Any] | None = None

    def begin(self, order: dict[str, Any], batches: int) -> None:
        self.order, self.batches, self.inner = order, batches, None

    def finish(self) -> None:
        self.iteration += 1
        self.order, self.batches, self.inner = {}, 0, None

    def take_resumed(self) -> dict[str, Any] | None:
        resumed, self.resumed = self.resumed, None
        return resumed

    def set_epoch(self, epoch: int) -> None:
        if self.resumed is not None and self.resumed["epoch"] != epoch:
            self.resumed = None  # the user went to another epoch
        self.iteration = epoch


def checked_state(state: Any) -> dict[str, Any]:
    """Return a state that `state_dict` made, or refuse it."""
    if not isinstance(state, dict) or set(state) != _KEYS:
        names = ", ".join(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise AccelnbError(f"this is not the state of a prepared loader: it has {names}")
    for name in _NUMBERS:
        value = state[name]
        optional = name == "total_batch_size" and value is None
        if not optional and (not isinstance(value, int) or value < 0):
            raise AccelnbError(f"the state of a loader has {name}={value!r}: not a number")
    return dict(state)


def batches_to_skip(state: dict[str, Any], num_processes: int, total_batch_size: int | None) -> int:
    """Return how many batches of each rank were handed out, counted for this number of ranks."""
    old_total, new_total = state["total_batch_size"], total_batch_size
    if not old_total or not new_total:
        old_total, new_total = state["num_processes"], num_processes
    return state["batches"] * old_total // new_total


def order_source(*candidates: Any) -> Any:
    """Return the first of samplers and datasets that draws from a `generator`, else None."""
    return next((c for c in candidates if c is not None and hasattr(c, "generator")), None)


def current_order(source: Any, process_index: int) -> dict[str, Any]:
    """Return what fixes the order of the epoch that begins now."""
    generator = getattr(source, "generator", None)
    return {
        "seed": getattr(source, "initial_seed", None),
        "sampler_rng": None if generator is None else generator.get_state(),
        "torch_rng": torch.get_rng_state(),
        "process_index": process_index,
    }


def restore_order(source: Any, state: dict[str, Any]) -> None:
    """Give the sampler the seed and the random numbers that a saved epoch began with."""
    if state["seed"] is not None and hasattr(source, "initial_seed"):
        source.initial_seed = state["seed"]
    generator = getattr(source, "generator", None)
    if generator is not None and state["sampler_rng"] is not None:
        generator.set_state(state["sampler_rng"])


@contextmanager
def replayed(source: Any, state: dict[str, Any] | None, process_index: int) -> Iterator[None]:
    """Within the block, draw the order as it was drawn when a saved epoch began.

    That may have been by other means: with one process and no generator of its own a sampler
    draws from torch's global one, with several it has a generator, equal on all ranks.
    """
    if state is None or state["torch_rng"] is None:
        yield
        return
    now = torch.get_rng_state()
    generator = getattr(source, "generator", None)
    saved = state["sampler_rng"]
    # Global numbers of another rank matter only if they made the order.
    if saved is None or state["process_index"] == process_index:
        torch.set_rng_state(state["torch_rng"])
    if source is not None and (saved is None) != (generator is None):
        source.generator = None if saved is None else torch.Generator()
        restore_order(source, state)
    try:
        yield
    finally:
        torch.set_rng_state(now)
        if source is not None:
            source.generator = generator
