"""The order of whatever sampler, generator or seed a user hands over is that of plain torch."""

from __future__ import annotations

import random

import pytest
import torch
from ranks import on_ranks
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from accelnb import Accelerator
from accelnb.training.configuration import DataLoaderConfiguration
from accelnb.training.data.samplers import SeedableRandomSampler
from accelnb.utils import set_seed

_SIZE = 16


def _seeded(seed):
    return torch.Generator().manual_seed(seed)


def _drawn(generator):
    return torch.randperm(_SIZE, generator=generator).tolist()


class _Drawing(Sampler):
    """As that of transformers which groups by length: it draws from a generator of its own."""

    def __init__(self, generator):
        self.generator = generator

    def __len__(self):
        return _SIZE

    def __iter__(self):
        return iter(_drawn(self.generator))


class _ByEpoch(Sampler):
    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return _SIZE

    def __iter__(self):
        return iter(_drawn(_seeded(50 + self.epoch)))


class _Batches(BatchSampler):
    def __init__(self):
        self.order = _ByEpoch()
        self.batch_size, self.drop_last = 2, False

    def set_epoch(self, epoch):
        self.order.set_epoch(epoch)

    def __len__(self):
        return _SIZE // 2

    def __iter__(self):
        indices = list(self.order)
        return iter([indices[i : i + 2] for i in range(0, _SIZE, 2)])


class _Reordered(RandomSampler):
    def __iter__(self):
        return iter(sorted(super().__iter__(), key=lambda index: index % 3))


class _PythonRandom(_Drawing):
    def __iter__(self):
        order = list(range(_SIZE))
        random.Random(self.generator.initial_seed()).shuffle(order)
        return iter(order)


class _Stream(IterableDataset):
    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter(_drawn(_seeded(50 + self.epoch)))


def _loader(sampler):
    return DataLoader(range(_SIZE), batch_size=2, sampler=sampler)


GIVEN = {
    "a generator of the sampler": lambda: _loader(
        RandomSampler(range(_SIZE), generator=_seeded(7))
    ),
    "with replacement": lambda: _loader(
        RandomSampler(range(_SIZE), replacement=True, num_samples=8, generator=_seeded(7))
    ),
    "a generator of the loader": lambda: DataLoader(
        range(_SIZE), batch_size=2, shuffle=True, generator=_seeded(7)
    ),
    "in a batch sampler": lambda: DataLoader(
        range(_SIZE),
        batch_sampler=BatchSampler(RandomSampler(range(_SIZE), generator=_seeded(7)), 2, False),
    ),
    "a seedable one": lambda: _loader(SeedableRandomSampler(range(_SIZE), data_seed=7)),
    "weighted": lambda: _loader(
        WeightedRandomSampler([1.0] * _SIZE, _SIZE, generator=_seeded(7))
    ),
    "of a subset": lambda: _loader(SubsetRandomSampler(range(4, _SIZE), generator=_seeded(7))),
    "of a class of its own": lambda: _loader(_Drawing(_seeded(7))),
    "that reorders": lambda: _loader(_Reordered(range(_SIZE), generator=_seeded(7))),
    "by Python's numbers": lambda: _loader(_PythonRandom(_seeded(7))),
    "by the epoch": lambda: _loader(_ByEpoch()),
    "batches by the epoch": lambda: DataLoader(range(_SIZE), batch_sampler=_Batches()),
    "a stream by the epoch": lambda: DataLoader(_Stream(), batch_size=2),
}  # fmt: skip
DIVIDED = {
    "in turn": {},
    "in pieces": {"split_batches": True},
    "by rank 0": {"dispatch_batches": True},
    "read by all": {"dispatch_batches": False},
}


def _orders(loader, told):
    orders = []
    for epoch in range(2):
        for part in told:
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
        orders.append([index for batch in loader for index in batch.tolist()])
    return orders


def _plain(name):
    loader = GIVEN[name]()
    return _orders(loader, [loader.dataset, loader.sampler, loader.batch_sampler])


def _on_a_rank(how):
    found = {}
    for name, make in GIVEN.items():
        set_seed(1)
        accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(**DIVIDED[how]))
        loader = accelerator.prepare(make())
        epochs = []
        for _ in range(2):
            parts = [accelerator.gather(batch).tolist() for batch in loader]
            epochs.append([index for part in parts for index in part])
        found[name] = epochs
    return found


@pytest.mark.parametrize("how", list(DIVIDED))
def test_ranks_together_draw_what_plain_torch_draws(how):
    zero, one = on_ranks(_on_a_rank, how)
    assert zero == one == {name: _plain(name) for name in GIVEN}


def _by_seeds(configured):
    orders = []
    for seed in (1, 2, 1):
        set_seed(seed)
        sampler = SeedableRandomSampler(range(_SIZE), generator=torch.Generator())
        config = DataLoaderConfiguration(use_seedable_sampler=True, data_seed=configured)
        loader = Accelerator(dataloader_config=config).prepare(_loader(sampler))
        orders.append([index for batch in loader for index in batch.tolist()])
    return orders


def test_the_order_of_a_seedable_sampler_follows_set_seed_or_the_seed_of_the_configuration():
    first, other, again = _by_seeds(None)
    assert first == again != other
    assert first == torch.randperm(_SIZE, generator=_seeded(1)).tolist()
    nine, same, _ = _by_seeds(9)
    assert nine == same == torch.randperm(_SIZE, generator=_seeded(9)).tolist()
