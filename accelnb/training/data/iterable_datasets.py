"""How samples of an iterable-style dataset are divided, counted and looked ahead at."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.utils.data import IterableDataset

from accelnb.errors import AccelnbError
from accelnb.training.data.index_feed import Note
from accelnb.training.data.samplers import check_divisible, completed
from accelnb.training.pytree import ignorant_find_batch_size

_NOTHING = object()


class Repeated(NamedTuple):
    """A sample that its dataset gave before: it completes a batch."""

    sample: Any


class CountedBatch(NamedTuple):
    """A batch, and how many samples made it. Workers and pinning pass it on whole."""

    data: Any
    samples: int | None
    duplicates: int


class IterableDatasetShard(IterableDataset):
    """One rank's part of an iterable dataset that every rank reads in full.

    Parameters
    ----------
    dataset
        Must give the same samples on all ranks.
    batch_size
        Of a rank's batches; with `split_batches`, of the batches that are divided. None: the
        dataset gives whole batches, which the ranks take in turn.
    drop_last
        Leave out the last samples, if not every rank gets a full batch of them.
    num_processes, process_index
        How many ranks there are, and which this is.
    split_batches
        Each rank gets a piece of every `batch_size` samples.
    even_batches
        Complete the last batches with samples from the beginning.
    mark_repeated
        Wrap repeated samples in `Repeated`.

    Raises
    ------
    AccelnbError
        Batches are to be split, but their size does not divide.

    Examples
    --------
    >>> from torch.utils.data import IterableDataset
    >>> from accelnb.training.data.iterable_datasets import IterableDatasetShard
    >>> class Count(IterableDataset):
    ...     def __iter__(self):
    ...         return iter(range(7))
    >>> list(IterableDatasetShard(Count(), 2, num_processes=2, process_index=1))
    [2, 3, 6, 0]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        drop_last: bool = False,
        num_processes: int = 1,
        process_index: int = 0,
        split_batches: bool = False,
        even_batches: bool = True,
        mark_repeated: bool = False,
    ) -> None:
        if split_batches:
            check_divisible(batch_size, num_processes)
        self.dataset = dataset
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.num_processes = num_processes
        self.process_index = process_index
        self.split_batches = split_batches
        self.even_batches = even_batches
        self.mark_repeated = mark_repeated
        self.epoch = 0

    @property
    def each(self) -> int:
        """Samples of a round that one rank gets."""
        size = self.batch_size or 1
        return size // self.num_processes if self.split_batches else size

    @property
    def remainder(self) -> int:
        """0 if no sample is repeated; -1, as only the end of the data tells how many are."""
        return 0 if self.drop_last or not self.even_batches else -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        each = self.each
        rounds, extra = divmod(len(self.dataset), each * self.num_processes)
        if self.drop_last or not extra:
            return rounds * each
        if self.even_batches:
            return (rounds + 1) * each
        return rounds * each + min(each, max(0, extra - self.process_index * each))

    def __iter__(self) -> Iterator[Any]:
        generator = getattr(self.dataset, "generator", None)
        if isinstance(generator, torch.Generator) and not hasattr(self.dataset, "set_epoch"):
            generator.manual_seed(self.epoch)
        each = self.each
        mine = slice(self.process_index * each, (self.process_index + 1) * each)
        size = each * self.num_processes
        samples = iter(self.dataset)
        first: list[Any] = []
        while together := list(itertools.islice(samples, size)):
            first = first or together
            if len(together) < size and self.drop_last:
                return
            if len(together) < size and self.even_batches:
                together = completed(together, self._marked(first), size)
            yield from together[mine]

    def _marked(self, samples: list[Any]) -> list[Any]:
        return [Repeated(sample) for sample in samples] if self.mark_repeated else samples


class CountingCollate:
    """A collate function that says how many samples it got, and how many of them are repeated."""

    def __init__(self, collate: Callable[[Any], Any], batched: bool) -> None:
        self.collate = collate
        self.batched = batched

    def __call__(self, samples: Any) -> CountedBatch:
        if not self.batched:
            repeated = isinstance(samples, Repeated)
            data = self.collate(samples.sample if repeated else samples)
            size = ignorant_find_batch_size(data)
            return CountedBatch(data, size, (size or 0) if repeated else 0)
        plain = [s.sample if isinstance(s, Repeated) else s for s in samples]
        duplicates = sum(isinstance(s, Repeated) for s in samples)
        return CountedBatch(self.collate(plain), len(plain), duplicates)


def looked_ahead(items: Iterator[Any]) -> Iterator[tuple[Any, Any | None, bool]]:
    """Yield each item, the one that follows (None if there is none), and whether it is the last.

    An error in getting the next is raised only after the item before was used.
    """
    current = next(items, _NOTHING)
    while current is not _NOTHING:
        error: Exception | None = None
        following = _NOTHING
        try:
            following = next(items, _NOTHING)
        except Exception as raised:
            error = raised
        ended = following is _NOTHING
        yield current, None if ended else following, ended and error is None
        if error is not None:
            raise error
        current = following


def until_all_end(
    batches: Iterator[tuple[Any, Note]], device: torch.device
) -> Iterator[tuple[Any, Note]]:
    """Yield a rank's own batches, then its first one as a repeated one until all ranks end.

    Ranks that read different shards can have different numbers of batches, and would otherwise
    wait for each other in a collective for ever.

    Raises
    ------
    AccelnbError
        A rank has no batch at all, or its dataset raised an error: raised on every other rank.
    """
    first: tuple[Any, Note] | None = None
    while True:
        item, error = None, None
        try:
            item = next(batches, None)
        except Exception as raised:
            error = raised
        first = first or item
        said = torch.tensor([error is not None, first is None, item is not None])
        said = said.to(device, torch.int32)
        dist.all_reduce(said, dist.ReduceOp.MAX)
        someone_failed, someone_has_none, someone_goes_on = said.tolist()
        if error is not None:
            raise error
        if someone_failed:
            raise AccelnbError("another rank could not read its next batch: see its error")
        if not someone_goes_on:
            return
        if someone_has_none or first is None:
            raise AccelnbError(
                "a rank's shard of the dataset is empty: make more and equal shards, or pass "
                "dispatch_batches=True"
            )
        if item is None:
            samples = first[1].samples
            item = first[0], Note(samples, samples or 0, remainder=-1)
        yield item
