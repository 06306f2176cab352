"""What prepared loaders share: they know their batch in hand and their place in the epoch."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from accelnb.errors import AccelnbError
from accelnb.training import whereabouts
from accelnb.training.data.batch_iterator import inner_loader, read_indexed, read_samples
from accelnb.training.data.device_placement import placement
from accelnb.training.data.epoch_position import (
    Progress,
    batches_to_skip,
    checked_state,
    current_order,
    order_source,
    replayed,
    restore_order,
)
from accelnb.training.data.index_feed import IndexFeed, Note
from accelnb.training.data.iterable_datasets import IterableDatasetShard
from accelnb.training.data.samplers import BatchSamplerShard, batch_sampler_of
from accelnb.training.enums import RNGType
from accelnb.training.gradients import GradientState
from accelnb.training.rng import synchronize_rng_states
from accelnb.training.state import PartialState


class PreparedLoader(DataLoader[Any]):
    """What prepared loaders share; it is a ``torch.utils.data.DataLoader``.

    Parameters
    ----------
    dataset, **kwargs
        Of ``torch.utils.data.DataLoader``.
    device : torch.device, optional
        Where batches are moved.
    rng_types : list of str, optional
        Random number generators that get rank 0's state at the begin of each epoch.
    synchronized_generator : torch.Generator, optional
        The one that ``generator`` in `rng_types` stands for.
    skip_batches
        Leave out as many batches at the begin of each epoch.
    use_stateful_dataloader
        After `load_state_dict`, the next iteration leaves out what was handed out before.
    iteration
        The number of the first epoch.

    Attributes
    ----------
    end_of_dataloader : bool
        Whether the batch in hand is this rank's last.
    remainder : int
        Different samples in the last batches of all ranks, if some are repeated in them, else 0;
        -1 if it is not known yet.
    duplicates : int
        Samples at the end of the batch in hand that repeat earlier ones.
    batch_samples : int or None
        Samples in the batch in hand, if known.
    iteration : int
        The number of the epoch.

    Raises
    ------
    AccelnbError
        The dataset is iterable-style, its place is to be saved, and torchdata is not installed.
    """

    _note: Note

    def __init__(
        self,
        dataset: Any,
        device: torch.device | str | None = None,
        rng_types: list[Any] | None = None,
        synchronized_generator: torch.Generator | None = None,
        skip_batches: int = 0,
        use_stateful_dataloader: bool = False,
        _drop_last: bool = False,
        _non_blocking: bool = False,
        _num_processes: int | None = None,
        iteration: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(dataset, **kwargs)
        self.device = None if device is None else torch.device(device)
        self.rng_types = rng_types
        self.synchronized_generator = synchronized_generator
        self.skip_batches = skip_batches
        self.use_stateful_dataloader = use_stateful_dataloader
        self._drop_last = _drop_last
        self._non_blocking = _non_blocking
        self._num_processes = _num_processes
        self._progress = Progress(iteration)
        self._feed = IndexFeed(self.sampler if self.batch_sampler is None else self.batch_sampler)
        self._inner = inner_loader(self) if use_stateful_dataloader and self.is_iterable else None
        self._note = Note()
        self._loop: object | None = None  # the newest over it
        self._expected = -1  # the remainder, before the last batch

    # ---- what it is, and its batch in hand ----

    @property
    def is_iterable(self) -> bool:
        return isinstance(self.dataset, IterableDataset)

    @property
    def end_of_dataloader(self) -> bool:
        return self._note.end

    @property
    def duplicates(self) -> int:
        return self._note.duplicates

    @property
    def batch_samples(self) -> int | None:
        return self._note.samples

    @property
    def remainder(self) -> int:
        note = self._note
        return note.remainder if note.end or note.remainder else self._expected

    @property
    def gradient_state(self) -> GradientState:
        return GradientState()

    @property
    def iteration(self) -> int:
        return self._progress.iteration

    @iteration.setter
    def iteration(self, epoch: int) -> None:
        self._progress.set_epoch(epoch)

    @property
    def _index_sampler(self) -> Any:
        # torch's iterator draws indices from this.
        return super()._index_sampler if self.is_iterable else self._feed

    @property
    def _own_sampler(self) -> Any:
        return batch_sampler_of(self)

    @property
    def divider(self) -> Any:
        """What deals the data out to the ranks; its `even_batches` may be changed."""
        return self.dataset if self.is_iterable else self._own_sampler

    @property
    def _read_per_round(self) -> int:
        """How many batches the process that reads takes for one of every rank."""
        return 1

    def _ranks(self) -> int:
        """Return how many ranks share the data."""
        if self._num_processes is not None:
            return self._num_processes
        return getattr(self.divider, "num_processes", 1)

    def divides_for(self, num_processes: int) -> bool:
        """Return whether it gives so many processes their parts.

        Raises
        ------
        AccelnbError
            It has the part of a process among another number of them.
        """
        ranks = self._ranks()
        if ranks not in (1, num_processes):
            raise AccelnbError(
                f"this loader was prepared for {ranks} processes, and there are {num_processes}: "
                "give prepare() the loader that it was made of"
            )
        return ranks == num_processes

    @property
    def total_batch_size(self) -> int | None:
        """Samples in the batches of all ranks together; None if batches have no fixed size."""
        divided = self._own_sampler
        if self.is_iterable:
            divided = self.dataset if isinstance(self.dataset, IterableDatasetShard) else self
        size = getattr(divided, "batch_size", None)
        if size is None or getattr(divided, "split_batches", False):
            return size
        return size * self._ranks()

    @property
    def total_dataset_length(self) -> int:
        """Samples in the whole dataset."""
        dataset: Any = self.dataset
        if isinstance(dataset, IterableDatasetShard):
            dataset = dataset.dataset
        return dataset.total_length if hasattr(dataset, "total_length") else len(dataset)

    def __len__(self) -> int:
        return max(0, super().__len__() - self.skip_batches)

    # ---- samplers and epochs ----

    def get_sampler(self) -> Any:
        """Return the sampler of single indices, None if there is none."""
        return getattr(self._own_sampler, "sampler", None)

    def set_sampler(self, sampler: Any) -> None:
        """Take single indices from another sampler."""
        own = self._own_sampler
        if own is not self.sampler:
            self.__dict__["sampler"] = sampler  # torch allows no other way once it is made
        while own is not None:
            if hasattr(own, "sampler"):
                own.sampler = sampler
            own = getattr(own, "batch_sampler", None)

    def set_epoch(self, epoch: int) -> None:
        """Tell the samplers and the dataset which epoch comes next."""
        self.iteration = epoch
        own = self._own_sampler
        inner = getattr(own, "batch_sampler", None)
        told: list[Any] = []
        parts: list[Any] = [own, inner, self.get_sampler(), self.dataset]
        for part in parts:
            if hasattr(part, "set_epoch") and not any(part is other for other in told):
                part.set_epoch(epoch)
                told.append(part)

    def _order_source(self) -> Any:
        if self.is_iterable:
            return order_source(self.dataset, getattr(self.dataset, "dataset", None))
        own = self._own_sampler
        inner = getattr(own, "batch_sampler", None)
        return order_source(self.get_sampler(), inner, own, self.sampler)

    # ---- the place in the epoch ----

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the epoch and what fixes its order: plain values and tensors.

        Examples
        --------
        >>> from torch.utils.data import DataLoader
        >>> from accelnb.training.data.prepare import prepare_data_loader
        >>> loader = prepare_data_loader(DataLoader(range(8), batch_size=2, shuffle=True))
        >>> for step, batch in enumerate(loader):
        ...     if step == 1:
        ...         state = loader.state_dict()
        >>> state["epoch"], state["batches"]
        (0, 2)
        """
        progress = self._progress
        if progress.resumed is not None:
            return dict(progress.resumed)
        process_index = PartialState().process_index
        order = progress.order or {
            **current_order(self._order_source(), process_index),
            "torch_rng": None,  # the next epoch begins with what the generator has then
        }
        return {
            "epoch": progress.iteration,
            "batches": progress.batches,
            "num_processes": self._ranks(),
            "total_batch_size": self.total_batch_size,
            "inner": progress.inner,
            **order,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go back to the epoch of a saved state: the next iteration has its order.

        With `use_stateful_dataloader` it also leaves out what was handed out then. Otherwise use
        `skip_first_batches`.

        Raises
        ------
        AccelnbError
            It is not the state of a prepared loader.
        """
        state = checked_state(state_dict)
        self._progress.begin({}, 0)
        self._progress.resumed = state
        self._progress.iteration = state["epoch"]

    def without_first(self, num_batches: int) -> Any:
        """Return a copy that leaves out more batches, and shares the place in the epoch."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy._iterator = None  # persistent workers belong to one loader
        copy._feed = IndexFeed(self._feed.sampler)
        copy.skip_batches = self.skip_batches + num_batches
        return copy

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_iterator": None, "_inner": None, "_loop": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.use_stateful_dataloader and self.is_iterable:
            self._inner = inner_loader(self)

    # ---- iteration ----

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        resumed = self._progress.take_resumed()
        if resumed is not None:
            restore_order(self._order_source(), resumed)
        self._synchronize()
        self.set_epoch(self.iteration)
        skip = self.skip_batches
        if resumed is not None and self.use_stateful_dataloader:
            skip = max(skip, batches_to_skip(resumed, self._ranks(), self.total_batch_size))
        self._progress.begin(self._beginning_order(resumed), skip)
        self._note, self._expected = Note(), self._expected_remainder()
        loop = object()
        mine, progress = self.__dict__, self._progress
        place, follow = placement(self.device, self._non_blocking)
        try:
            with closing(self._handed_out(skip, resumed)) as batches:
                for batch, note in batches:
                    if mine["_loop"] is not loop:  # the first batch, or another loop had one since
                        mine["_loop"] = loop
                        self.gradient_state._add_dataloader(self)
                    mine["_note"] = note  # torch's own way to set an attribute takes longer
                    progress.batches += 1
                    progress.inner = note.inner
                    whereabouts.batch()
                    yield batch if place is None else place(batch)
                    if follow is not None:
                        follow()
            progress.finish()
        finally:
            # A loop that was left by an error ends only when its traceback is forgotten, perhaps
            # in the middle of the next one.
            if mine["_loop"] is loop:
                mine["_loop"] = None
                self.gradient_state._remove_dataloader(self)

    def _handed_out(self, skip: int, resumed: dict[str, Any] | None) -> Generator[tuple[Any, Note]]:
        """Yield this rank's batches, each with its `Note`."""
        return self._read(skip, resumed)

    def _read(
        self, skip: int, resumed: dict[str, Any] | None, keep: int = 0
    ) -> Generator[tuple[Any, Note]]:
        """Yield what this process loads itself, without the first `skip` batches.

        The first `keep` of these are not left out. With `resumed` the order is that of the epoch
        whose state that is.
        """
        order = replayed(self._order_source(), resumed, PartialState().process_index)
        inner: Any = self._inner
        keep = min(keep, skip)
        if not self.is_iterable:
            return read_indexed(self, self._feed, order, skip, keep)
        if resumed is not None and self._goes_on_inside(resumed, skip):
            inner.load_state_dict(resumed["inner"])
            skip = keep = 0
        return read_samples(self, inner, order, skip, keep, self._expected_remainder())

    def _goes_on_inside(self, resumed: dict[str, Any] | None, skip: int) -> bool:
        """Return whether torchdata's loader goes on by itself after the first `skip` batches."""
        if self._inner is None or resumed is None or resumed["inner"] is None:
            return False
        same_ranks = resumed["num_processes"] == self._ranks()
        return same_ranks and resumed["batches"] * self._read_per_round == skip

    def _synchronize(self) -> None:
        kinds = [
            kind
            for kind in self.rng_types or []
            if kind != RNGType.GENERATOR or self.synchronized_generator is not None
        ]
        if kinds:
            synchronize_rng_states(kinds, self.synchronized_generator)

    def _beginning_order(self, resumed: dict[str, Any] | None) -> dict[str, Any]:
        order = current_order(self._order_source(), PartialState().process_index)
        if resumed is not None and resumed["torch_rng"] is not None:
            return {name: resumed[name] for name in order}
        return order

    def _expected_remainder(self) -> int:
        if self._ranks() == 1:
            return 0
        shard = self.dataset if self.is_iterable else self._own_sampler
        divided = isinstance(shard, BatchSamplerShard | IterableDatasetShard)
        return shard.remainder if divided else -1
