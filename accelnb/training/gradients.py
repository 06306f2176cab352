"""When gradients are averaged and applied: the place in the accumulation and in the loader."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar, Protocol

from accelnb.training.configuration import GradientAccumulationPlugin


class ActiveLoader(Protocol):
    """What is known of a loader that is being iterated over."""

    end_of_dataloader: bool  # whether the batch in hand is the last
    remainder: int  # samples in the last batches of all ranks without the repeated; -1: unknown
    duplicates: int  # repeated samples at the end of the batch in hand
    batch_samples: int | None  # samples in the batch in hand, if known


class Accumulation:
    """How far one Accelerator is in an accumulation.

    Attributes
    ----------
    step : int
        Batches since the last optimizer step.
    """

    def __init__(self) -> None:
        self.step = 0


class GradientState:
    """Whether the batch in hand ends an accumulation. All instances of a process share it.

    Attributes
    ----------
    sync_gradients : bool
        Whether gradients are averaged and the optimizer steps with this batch.

    Examples
    --------
    >>> from accelnb import Accelerator
    >>> accelerator = Accelerator(gradient_accumulation_steps=4)
    >>> accelerator.gradient_state.num_steps
    4
    """

    _shared_state: ClassVar[dict[str, Any]] = {}

    sync_gradients: bool
    plugin: GradientAccumulationPlugin

    def __init__(
        self, gradient_accumulation_plugin: GradientAccumulationPlugin | None = None
    ) -> None:
        self.__dict__ = self._shared_state
        if not self.initialized:
            self.sync_gradients = True
            self.plugin = GradientAccumulationPlugin()
            self._loaders: list[weakref.ref[ActiveLoader]] = []
        if gradient_accumulation_plugin is not None:
            self.plugin = gradient_accumulation_plugin

    @property
    def initialized(self) -> bool:
        return bool(self._shared_state)

    @property
    def plugin_kwargs(self) -> dict[str, Any]:
        return self.plugin.to_dict()

    @property
    def num_steps(self) -> int:
        return self.plugin.num_steps

    @property
    def adjust_scheduler(self) -> bool:
        return self.plugin.adjust_scheduler

    @property
    def sync_with_dataloader(self) -> bool:
        return self.plugin.sync_with_dataloader

    # ---- the loader that is being iterated over; the innermost where one loop is in another ----

    @property
    def active_dataloader(self) -> ActiveLoader | None:
        while self._loaders:
            if (loader := self._loaders[-1]()) is not None:
                return loader
            self._loaders.pop()
        return None

    @property
    def dataloader_references(self) -> list[ActiveLoader | None]:
        return [None, *(reference() for reference in self._loaders)]

    @property
    def in_dataloader(self) -> bool:
        return self.active_dataloader is not None

    @property
    def end_of_dataloader(self) -> bool:
        loader = self.active_dataloader
        return loader is not None and loader.end_of_dataloader

    @property
    def remainder(self) -> int:
        loader = self.active_dataloader
        return loader.remainder if loader is not None else -1

    def _set_sync_gradients(self, sync_gradients: bool) -> None:
        """Say whether the batch in hand ends an accumulation: trainers that count themselves do."""
        self.sync_gradients = sync_gradients

    def _add_dataloader(self, loader: Any) -> None:
        self._remove_dataloader(loader)  # an earlier loop over it may have been left early
        self._loaders.append(weakref.ref(loader))

    def _remove_dataloader(self, loader: Any) -> None:
        self._loaders[:] = [r for r in self._loaders if r() is not None and r() is not loader]

    @staticmethod
    def _reset_state() -> None:
        """Forget everything: the next instance starts anew."""
        GradientState._shared_state.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()  # a copy in another process is that process's own

    def __repr__(self) -> str:
        return (
            f"Sync Gradients: {self.sync_gradients}\n"
            f"At end of current dataloader: {self.end_of_dataloader}\n"
            f"Extra samples added: {self.remainder}\n"
            f"Gradient accumulation plugin: {self.plugin_kwargs}\n"
        )
