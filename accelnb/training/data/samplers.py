"""Samplers that divide the indices of a map-style dataset among the ranks."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, NamedTuple

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from accelnb.errors import AccelnbError


class Share(NamedTuple):
    """What a rank gets of one round, in which each rank gets one batch."""

    indices: Any
    duplicates: int = 0  # indices at the end that repeat earlier ones
    remainder: int = 0  # different samples that all ranks get in this round, if some are repeated


class SeedableRandomSampler(RandomSampler):
    """A random sampler whose order follows from a seed and the epoch's number alone.

    Parameters
    ----------
    data_source, replacement, num_samples, generator
        Of ``torch.utils.data.RandomSampler``. A generator gives the seed that it was given.
    data_seed : int, optional
        The seed; by default that of the generator, or torch's initial one, which `set_seed` sets.

    Notes
    -----
    A prepared loader counts the epochs of its sampler: to go to another, call the loader's
    ``set_epoch``.

    Examples
    --------
    >>> from accelnb.training.data.samplers import SeedableRandomSampler
    >>> sampler = SeedableRandomSampler(range(8), data_seed=1)
    >>> first, second = list(sampler), list(sampler)
    >>> sampler.set_epoch(0)
    >>> list(sampler) == first != second
    True
    """

    def __init__(self, *args: Any, data_seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if data_seed is None:
            data_seed = seed_for(self.generator)
        self.initial_seed = data_seed
        self.generator = torch.Generator(device=torch.get_default_device())
        self.epoch = 0

    def copy(self, data_seed: int | None = None) -> SeedableRandomSampler:
        """Return one that draws for itself, with another seed if that is given."""
        made = copy.copy(self)
        made.generator = torch.Generator(device=self.generator.device)
        if data_seed is not None:
            made.initial_seed = data_seed
        return made

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.initial_seed + self.epoch)
        yield from super().__iter__()
        self.set_epoch(self.epoch + 1)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def seed_for(generator: torch.Generator | None) -> int:
    """Return the seed that a generator was given, torch's initial one if it was given none."""
    unseeded = torch.Generator().initial_seed()
    if generator is None or generator.initial_seed() == unseeded:
        return torch.random.initial_seed()
    return generator.initial_seed()


class BatchSamplerShard(BatchSampler):
    """One rank's part of the batches of another batch sampler.

    Parameters
    ----------
    batch_sampler
        Must give the same batches on all ranks.
    num_processes, process_index
        How many ranks there are, and which this is.
    split_batches
        Each rank gets a piece of every batch. Otherwise the ranks take whole batches in turn.
    even_batches
        Complete the last round with samples from the beginning, so that all ranks get as many
        batches of one size. Where the batch sampler has no `batch_size`, whole batches are
        repeated.

    Raises
    ------
    AccelnbError
        Batches are to be split, but their size is unknown or does not divide.

    Examples
    --------
    >>> from torch.utils.data import BatchSampler, SequentialSampler
    >>> from accelnb.training.data.samplers import BatchSamplerShard
    >>> batches = BatchSampler(SequentialSampler(range(7)), batch_size=2, drop_last=False)
    >>> list(BatchSamplerShard(batches, num_processes=2, process_index=0))
    [[0, 1], [4, 5]]
    >>> list(BatchSamplerShard(batches, num_processes=2, process_index=1))
    [[2, 3], [6, 0]]
    """

    def __init__(
        self,
        batch_sampler: BatchSampler | Iterable[list[int]],
        num_processes: int = 1,
        process_index: int = 0,
        split_batches: bool = False,
        even_batches: bool = True,
    ) -> None:
        self.batch_sampler: Any = batch_sampler
        self.num_processes = num_processes
        self.process_index = process_index
        self.split_batches = split_batches
        self.even_batches = even_batches
        self.batch_size: Any = getattr(batch_sampler, "batch_size", None)
        self.drop_last = getattr(batch_sampler, "drop_last", False)
        self.sampler: Any = getattr(batch_sampler, "sampler", None)
        if split_batches:
            check_divisible(self.batch_size, num_processes)

    @property
    def total_length(self) -> int:
        return len(self.batch_sampler)

    @property
    def remainder(self) -> int:
        """Samples in the last round if some are repeated in it, else 0; -1 if unknown."""
        if self.drop_last or not self.even_batches:
            return 0
        if self.batch_size is None or not isinstance(self.sampler, Sized):
            return -1
        return len(self.sampler) % (self.batch_size * (self.num_processes // self._ways))

    @property
    def _ways(self) -> int:
        return self.num_processes if self.split_batches else 1

    def __len__(self) -> int:
        rounds, extra = divmod(len(self.batch_sampler), self.num_processes // self._ways)
        if self.drop_last:
            return rounds
        if self.split_batches:
            return rounds - self._gets_nothing_of_the_last_batch()
        return rounds + (extra > 0 if self.even_batches else self.process_index < extra)

    def _gets_nothing_of_the_last_batch(self) -> bool:
        if self.even_batches or not isinstance(self.sampler, Sized):
            return False
        last = len(self.sampler) % self.batch_size
        return 0 < last <= self.process_index * (self.batch_size // self.num_processes)

    def __iter__(self) -> Iterator[list[int]]:
        return (share.indices for share in self.shares())

    def shares(self) -> Iterator[Share]:
        """Yield this rank's batches, and how many of their samples are repeated."""
        return self._pieces() if self.split_batches else self._whole_batches()

    def _pieces(self) -> Iterator[Share]:
        first: list[int] = []
        for batch in self.batch_sampler:
            first = first or batch
            if len(batch) < self.batch_size and self.drop_last:
                continue
            share = self._part(batch, first, self.batch_size)
            if share.indices:
                yield share

    def _whole_batches(self) -> Iterator[Share]:
        batches = iter(self.batch_sampler)
        first: list[list[int]] = []
        while together := list(itertools.islice(batches, self.num_processes)):
            first = first or together
            complete = len(together) == self.num_processes
            if complete and len(together[-1]) != (self.batch_size or len(together[-1])):
                # A short batch ends the data, unless the sizes vary and more follow.
                following = list(itertools.islice(batches, 1))
                batches = itertools.chain(following, batches)
                complete = bool(following)
            if complete:
                yield Share(together[self.process_index])
            elif not self.drop_last:
                yield from self._last_round(together, first)

    def _last_round(self, together: list[list[int]], first: list[list[int]]) -> Iterator[Share]:
        index, size = self.process_index, self.batch_size
        real = sum(map(len, together))
        if self.even_batches and size is not None:
            yield self._part(_flat(together), _flat(first), size * self.num_processes)
        elif index < len(together):
            yield Share(together[index], remainder=real if self.even_batches else 0)
        elif self.even_batches:
            repeated = first[(index - len(together)) % len(first)]
            yield Share(repeated, len(repeated), real)

    def _part(self, samples: list[int], first: list[int], size: int) -> Share:
        """Return this rank's part of `samples`, which are completed to `size` if need be."""
        real = len(samples)
        if real < size and self.even_batches:
            samples = completed(samples, first, size)
        each = max(size, real) // self.num_processes
        start, end = self.process_index * each, (self.process_index + 1) * each
        repeated = max(0, min(end, len(samples)) - max(real, start))
        return Share(samples[start:end], repeated, real if len(samples) > real else 0)


class SkipBatchSampler(BatchSampler):
    """Another batch sampler without its first batches.

    Examples
    --------
    >>> from accelnb.training.data.samplers import SkipBatchSampler
    >>> list(SkipBatchSampler([[0, 1], [2, 3], [4]], skip_batches=1))
    [[2, 3], [4]]
    """

    def __init__(self, batch_sampler: Iterable[Any], skip_batches: int = 0) -> None:
        self.batch_sampler: Any = batch_sampler
        self.skip_batches = skip_batches
        self.sampler: Any = getattr(batch_sampler, "sampler", None)
        self.batch_size: Any = getattr(batch_sampler, "batch_size", None)
        self.drop_last = getattr(batch_sampler, "drop_last", False)

    @property
    def total_length(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.batch_sampler), self.skip_batches, None)

    def __len__(self) -> int:
        return max(0, len(self.batch_sampler) - self.skip_batches)


def batch_sampler_of(loader: DataLoader[Any]) -> Any:
    """Return what gives a loader batches of indices, wherever it was passed; else None."""
    return loader.sampler if isinstance(loader.sampler, BatchSampler) else loader.batch_sampler


def _flat(batches: Iterable[Iterable[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


def completed(samples: Sequence[Any], first: Sequence[Any], size: int) -> list[Any]:
    """Return `samples` followed by those of `first`, again and again, up to `size`."""
    missing = max(0, size - len(samples))
    return [*samples, *itertools.islice(itertools.cycle(first), missing)]


def check_divisible(batch_size: int | None, num_processes: int) -> None:
    """Refuse a batch size that cannot be split among the ranks."""
    if batch_size is None:
        raise AccelnbError(
            "split_batches=True: the loader has no batch_size to split; give the loader or its "
            "batch sampler one, or set split_batches=False"
        )
    if batch_size % num_processes:
        nearest = math.ceil(batch_size / num_processes) * num_processes
        raise AccelnbError(
            f"split_batches=True: batch_size={batch_size} does not divide among {num_processes} "
            f"ranks; choose {nearest}, say"
        )
