"""The ways to divide a loader's data among the ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from accelnb.errors import AccelnbError
from accelnb.training.data.dispatcher import DataLoaderDispatcher, announced
from accelnb.training.data.iterable_datasets import IterableDatasetShard
from accelnb.training.data.samplers import (
    BatchSamplerShard,
    SeedableRandomSampler,
    batch_sampler_of,
    check_divisible,
)
from accelnb.training.data.sharded_loader import DataLoaderShard
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.state import PartialState

_COPIED = (BatchSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


@dataclass
class Division:
    """Among which ranks data is divided, and how; the fields are of `prepare_data_loader`."""

    mesh: Mesh
    split_batches: bool
    even_batches: bool
    use_seedable_sampler: bool
    data_seed: int | None

    @property
    def num_processes(self) -> int:
        """Among how many: ranks with the same data count as one."""
        return self.mesh.data_shares

    @property
    def process_index(self) -> int:
        """Which of these this rank is."""
        return self.mesh.data_share

    def check(self, loader: DataLoader[Any]) -> None:
        """Refuse a loader whose batches cannot be divided."""
        if self.num_processes == 1:
            return
        batches = batch_sampler_of(loader)
        if getattr(getattr(batches, "sampler", None), "num_replicas", 1) > 1:
            raise AccelnbError(
                "the loader's DistributedSampler divides the data already, and prepare() would "
                "divide it again: leave it out, and give the loader shuffle=True instead"
            )
        if self.split_batches:
            size = loader.batch_size or getattr(batches, "batch_size", None)
            check_divisible(size, self.num_processes)
        if batches is None and not isinstance(loader.dataset, IterableDataset):
            raise AccelnbError(
                f"batch_size=None: {self.num_processes} ranks cannot share a loader of single "
                "samples; give it a batch_size, or a BatchSampler as its sampler"
            )

    def takes_own_shard(self, dataset: Any) -> bool:
        """Return whether the dataset (of Hugging Face's datasets) gives each rank its shard."""
        shards = getattr(dataset, "num_shards", getattr(dataset, "n_shards", 0))
        can = isinstance(dataset, IterableDataset) and hasattr(dataset, "shard")
        return can and not self.split_batches and shards >= self.num_processes > 1

    def dispatcher(
        self, loader: DataLoader[Any], given: dict[str, Any], slice_fn: Callable[..., Any] | None
    ) -> DataLoaderDispatcher:
        """Return a loader whose rank 0 loads for all."""
        if isinstance(loader.dataset, IterableDataset):
            given |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
        else:
            given |= self._indexing(loader, self._own_batch_sampler(loader))
        ranks = PartialState().num_processes  # all take part, of however many a loader is told
        whole = self.mesh.size == ranks
        return DataLoaderDispatcher(
            loader.dataset,
            split_batches=self.split_batches,
            slice_fn=slice_fn,
            even_batches=self.even_batches,
            _places=self.mesh.shares_of(ranks) if whole else list(range(ranks)),
            **given,
        )

    def of_samples(self, loader: DataLoader[Any], given: dict[str, Any]) -> DataLoaderShard:
        """Return a loader of this rank's part of an iterable dataset."""
        dataset: Any = loader.dataset
        size = loader.batch_size
        given |= {"_num_processes": self.num_processes, "drop_last": loader.drop_last}
        generator = getattr(dataset, "generator", None)
        given["synchronized_generator"] = generator if self.num_processes > 1 else None
        if self.takes_own_shard(dataset):
            shard = dataset.shard(num_shards=self.num_processes, index=self.process_index)
            agree = self.even_batches and self._are_the_group
            return DataLoaderShard(shard, batch_size=size, _agree=agree, **given)
        if self.num_processes > 1:
            dataset = IterableDatasetShard(
                dataset,
                size,
                loader.drop_last,
                self.num_processes,
                self.process_index,
                self.split_batches,
                self.even_batches,
                mark_repeated=True,
            )
            if size is not None and self.split_batches:
                size //= self.num_processes
        return DataLoaderShard(dataset, batch_size=size, **given)

    def of_indices(self, loader: DataLoader[Any], given: dict[str, Any]) -> DataLoaderShard:
        """Return a loader of this rank's part of a map-style dataset."""
        batches = self._own_batch_sampler(loader)
        if self.num_processes > 1:
            given["synchronized_generator"] = self._equal_generator(batches)
            batches = BatchSamplerShard(
                batches,
                self.num_processes,
                self.process_index,
                self.split_batches,
                self.even_batches,
            )
        indexing = self._indexing(loader, batches)
        prepared = DataLoaderShard(loader.dataset, **given, **indexing)
        if "batch_sampler" in indexing:
            # torch shows no batch size or sampler where it was given a batch sampler.
            size, ways = loader.batch_size, self.num_processes if self.split_batches else 1
            prepared.__dict__["batch_size"] = None if size is None else size // ways
            prepared.__dict__["sampler"] = getattr(batches, "sampler", None) or loader.sampler
            prepared.__dict__["drop_last"] = loader.drop_last
        return prepared

    @property
    def _are_the_group(self) -> bool:
        """Whether all ranks of the process group do the same now, so that they can agree."""
        state = PartialState()
        return state.use_distributed and self.mesh.size == state.num_processes

    def _indexing(self, loader: DataLoader[Any], batches: Any) -> dict[str, Any]:
        """Return the arguments that bring a batch sampler to where `loader` has its own."""
        if loader.batch_sampler is not None:
            return {"batch_sampler": batches}
        return {"batch_size": None, "sampler": loader.sampler if batches is None else batches}

    def _own_batch_sampler(self, loader: DataLoader[Any]) -> Any:
        """Return the loader's batch sampler, or a copy of it that can be changed."""
        batches = batch_sampler_of(loader)
        sampler: Any = getattr(batches, "sampler", None)
        seedable = self._seedable(sampler)
        if self.num_processes == 1 and not (seedable and self.use_seedable_sampler):
            return batches
        batches = _changeable(batches)
        if seedable is not None:
            seedable.initial_seed = self._agreed(seedable.initial_seed)
            batches.sampler = seedable
        elif sampler is not None:
            batches.sampler = _changeable(sampler)
        return batches

    def _seedable(self, sampler: Any) -> SeedableRandomSampler | None:
        """Return a sampler of this loader's own whose order follows from a seed, if it needs one.

        One that is given keeps its seed, and a generator its own, unless there is a `data_seed`
        for all.
        """
        seed = self.data_seed if self.use_seedable_sampler else None
        if isinstance(sampler, SeedableRandomSampler):
            return sampler.copy(seed)
        if not self.use_seedable_sampler or not isinstance(sampler, RandomSampler):
            return None
        if type(sampler).__iter__ is not RandomSampler.__iter__:
            return None  # it draws in a way of its own
        return SeedableRandomSampler(
            sampler.data_source,
            replacement=sampler.replacement,
            num_samples=sampler._num_samples,
            generator=sampler.generator,
            data_seed=seed,
        )

    def _equal_generator(self, batches: Any) -> torch.Generator | None:
        """Return the generator that makes the order, equal on all ranks; make it if need be."""
        sampler: Any = getattr(batches, "sampler", None)
        if isinstance(sampler, SeedableRandomSampler):
            return None
        source: Any = sampler if hasattr(sampler, "generator") else batches
        if not hasattr(source, "generator"):
            return None
        if source.generator is None:
            seed = int(torch.empty((), dtype=torch.int64).random_().item())
            source.generator = torch.Generator(device=torch.get_default_device())
            source.generator.manual_seed(self._agreed(seed))
        return source.generator

    def _agreed(self, seed: int) -> int:
        return announced(seed) if self._are_the_group else seed


def _changeable(sampler: Any) -> Any:
    # Samplers of other classes may be more than they seem: those are used as they are.
    return copy.copy(sampler) if type(sampler) in _COPIED else sampler
