"""Which samples each rank gets, and which of them are repeated."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard as TheirShard
from accelerate.data_loader import IterableDatasetShard as TheirIterableShard
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from accelnb import AccelnbError
from accelnb.training.data.iterable_datasets import IterableDatasetShard
from accelnb.training.data.prepare import prepare_data_loader
from accelnb.training.data.samplers import BatchSamplerShard, SeedableRandomSampler
from accelnb.training.gradients import GradientState

Loader: Any = DataLoader  # takes a range for a dataset too


class Count(IterableDataset):
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return iter(range(self.n))

    def __len__(self):
        return self.n


class Batches:
    """A batch sampler of one's own, whose batches have no one size."""

    def __init__(self, *batches):
        self.batches = batches

    def __iter__(self):
        return iter(list(self.batches))

    def __len__(self):
        return len(self.batches)


def _prepared(loader, procs, rank, **options):
    return prepare_data_loader(loader, num_processes=procs, process_index=rank, **options)


def _seen(loader):
    """Return for each batch its samples, the repeated ones, and whether it is the last."""
    return [
        (batch.tolist(), loader.duplicates, loader.batch_samples, loader.end_of_dataloader)
        for batch in loader
    ]


def _all_ranks(make, procs, **options):
    return [_seen(_prepared(make(), procs, rank, **options)) for rank in range(procs)]


def test_ranks_take_whole_batches_in_turn_and_repeat_the_first_samples_at_the_end():
    ranks = _all_ranks(lambda: Loader(range(10), batch_size=2), 2)
    assert ranks == [
        [([0, 1], 0, 2, False), ([4, 5], 0, 2, False), ([8, 9], 0, 2, True)],
        [([2, 3], 0, 2, False), ([6, 7], 0, 2, False), ([0, 1], 2, 2, True)],
    ]


def test_ranks_get_pieces_of_split_batches():
    ranks = _all_ranks(lambda: Loader(range(7), batch_size=4), 2, split_batches=True)
    assert ranks == [
        [([0, 1], 0, 2, False), ([4, 5], 0, 2, True)],
        [([2, 3], 0, 2, False), ([6, 0], 1, 2, True)],
    ]


def test_without_even_batches_nothing_is_repeated_and_some_ranks_end_earlier():
    make = lambda: Loader(range(9), batch_size=4)  # noqa: E731
    assert _all_ranks(make, 2, even_batches=False) == [
        [([0, 1, 2, 3], 0, 4, False), ([8], 0, 1, True)],
        [([4, 5, 6, 7], 0, 4, True)],
    ]
    assert _all_ranks(make, 2, even_batches=False, split_batches=True) == [
        [([0, 1], 0, 2, False), ([4, 5], 0, 2, False), ([8], 0, 1, True)],
        [([2, 3], 0, 2, False), ([6, 7], 0, 2, True)],
    ]


def test_fewer_samples_than_a_round_are_repeated_until_it_is_full():
    assert _all_ranks(lambda: Loader(range(2), batch_size=3), 2) == [
        [([0, 1, 0], 1, 3, True)],
        [([1, 0, 1], 3, 3, True)],
    ]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("even", [False, True])
def test_the_ranks_get_what_accelerate_gives_them_and_lengths_and_counts_are_right(
    split, drop_last, even
):
    for procs, each, n in itertools.product((2, 3), (1, 2), range(1, 20)):
        size = each * procs if split else each * 2
        real, real_last = [], None
        for rank in range(procs):
            batches = BatchSampler(SequentialSampler(range(n)), size, drop_last)
            theirs = list(TheirShard(batches, procs, rank, split, even))
            shard = BatchSamplerShard(batches, procs, rank, split, even)
            case = (procs, size, n, rank)
            assert list(shard) == theirs, case
            assert len(shard) == len(theirs), case
            for share in shard.shares():
                real += share.indices[: len(share.indices) - share.duplicates]
                real_last = share.remainder
            if theirs:
                assert real_last == shard.remainder, case
        whole_rounds = n // (size if split else size * procs) * (size if split else size * procs)
        assert sorted(real) == list(range(whole_rounds if drop_last else n)), (procs, size, n)


def test_counts_are_right_for_a_sampler_of_another_length_than_the_dataset():
    make = lambda: Loader(range(100), batch_size=4, sampler=range(50, 61))  # noqa: E731
    kept = []
    for rank in range(2):
        loader = _prepared(make(), 2, rank)
        for batch in loader:
            kept += batch.tolist()[: len(batch) - loader.duplicates]
        assert loader.remainder == 11 % 8
    assert sorted(kept) == list(range(50, 61))


def test_whole_batches_are_repeated_where_their_sizes_vary():
    make = lambda: Loader(range(9), batch_sampler=Batches([0], [1, 2], [3, 4, 5]))  # noqa: E731
    assert _all_ranks(make, 2) == [
        [([0], 0, 1, False), ([3, 4, 5], 0, 3, True)],
        [([1, 2], 0, 2, False), ([0], 1, 1, True)],
    ]
    assert _all_ranks(make, 2, even_batches=False)[1] == [([1, 2], 0, 2, True)]


def test_a_batch_sampler_passed_as_the_sampler_is_divided_too():
    class ByList(list):
        def __getitem__(self, indices):
            return torch.tensor(indices)

    def make():
        sampler = BatchSampler(SequentialSampler(range(6)), 2, False)
        return Loader(ByList(range(6)), sampler=sampler, batch_size=None)

    assert [[batch for batch, *_ in rank] for rank in _all_ranks(make, 2)] == [
        [[0, 1], [4, 5]],
        [[2, 3], [0, 1]],
    ]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
def test_iterable_datasets_are_divided_as_by_accelerate(split, drop_last):
    for procs, n in itertools.product((2, 3), range(1, 16)):
        size = 2 * procs if split else 2
        for rank in range(procs):
            arguments = (size, drop_last, procs, rank, split)
            ours = IterableDatasetShard(Count(n), *arguments)
            case = (procs, n, rank)
            assert list(ours) == list(TheirIterableShard(Count(n), *arguments)), case
            assert len(ours) == len(list(ours)), case
            uneven = IterableDatasetShard(Count(n), *arguments, even_batches=False)
            assert len(uneven) == len(list(uneven)), case


@pytest.mark.parametrize("workers", [0, 2])
def test_repeated_samples_of_an_iterable_dataset_are_counted_also_in_workers(workers):
    class Halves(Count):
        def __iter__(self):
            worker = torch.utils.data.get_worker_info()
            step = 1 if worker is None else worker.num_workers
            return iter(range(0 if worker is None else worker.id, self.n, step))

    kept = []
    for rank in range(2):
        plain = Loader(Halves(11), batch_size=2, num_workers=workers)
        loader = _prepared(plain, 2, rank, dispatch_batches=False)
        ends = []
        for batch in loader:
            assert len(batch) == loader.batch_samples == 2
            kept += batch.tolist()[: 2 - loader.duplicates]
            ends.append(loader.end_of_dataloader)
        assert ends == [False] * (len(ends) - 1) + [True]
    assert sorted(kept) == list(range(11))


def test_one_process_gets_what_the_plain_loader_gives_to_the_bit():
    class Noisy:
        def __len__(self):
            return 11

        def __getitem__(self, index):
            return index + torch.rand(())  # augmentation in this process

    def epochs(prepare, **options):
        torch.manual_seed(3)
        loader = prepare(Loader(Noisy(), batch_size=2, **options))
        dropout = torch.nn.Dropout()
        return [dropout(batch) for _ in range(2) for batch in loader]

    for options in (
        {"shuffle": True},
        {"shuffle": True, "num_workers": 2},
        {"sampler": RandomSampler(range(11), replacement=True)},
        {"sampler": SubsetRandomSampler([1, 4, 7])},
    ):
        plain, prepared = epochs(lambda x: x, **options), epochs(prepare_data_loader, **options)
        assert all(map(torch.equal, plain, prepared))
        assert len(plain) == len(prepared)


def test_a_prepared_loader_is_a_dataloader_with_its_attributes_and_can_be_pickled():
    import pickle

    loader = _prepared(Loader(range(10), batch_size=4), 2, 1, split_batches=True)
    assert isinstance(loader, DataLoader)
    assert (loader.batch_size, loader.total_batch_size, loader.total_dataset_length) == (2, 4, 10)
    assert (len(loader), loader.num_workers, loader.dataset) == (3, 0, range(10))
    assert isinstance(loader.sampler, SequentialSampler)
    for _ in loader:
        copy = pickle.loads(pickle.dumps(loader))  # also with a batch in hand
        break
    assert _seen(copy) == _seen(loader)


def test_the_loop_leaves_the_gradient_state_clean_however_it_ends():
    state = GradientState()
    loader, other = (prepare_data_loader(Loader(range(4))) for _ in range(2))
    for _ in loader:
        for _ in other:
            assert state.active_dataloader is other
            break
        assert state.active_dataloader is loader
        break
    assert not state.in_dataloader
    with pytest.raises(ZeroDivisionError):
        [1 // 0 for _ in loader]
    assert not state.in_dataloader
    assert [state.end_of_dataloader for _ in loader] == [False] * 3 + [True]
    assert not state.in_dataloader
    left = iter(loader)  # as by an error, of which a notebook keeps the traceback
    next(left)
    for place, _ in enumerate(loader):
        if place == 1:
            del left
        assert state.active_dataloader is loader
    assert not state.in_dataloader
    assert [state.end_of_dataloader for _ in zip(loader, loader, strict=True)][-1]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (
            lambda: Loader(range(8), batch_size=3),
            {"split_batches": True},
            "split_batches=True: batch_size=3 does not divide among 2 ranks; choose 4",
        ),
        (
            lambda: Loader(range(8), batch_sampler=Batches([0])),
            {"split_batches": True},
            "split_batches=True: the loader has no batch_size to split",
        ),
        (
            lambda: Loader(range(8), batch_size=None),
            {},
            "batch_size=None: 2 ranks cannot share a loader of single samples",
        ),
        (
            lambda: Loader(range(8), sampler=DistributedSampler(Count(8), 2, 0)),
            {},
            "the loader's DistributedSampler divides the data already",
        ),
        (
            lambda: Loader(range(8)),
            {"dispatch_batches": True},
            "dispatch_batches=True: it needs put_on_device=True",
        ),
    ],
)
def test_what_cannot_be_divided_is_one_clear_line(make, options, message):
    with pytest.raises(AccelnbError) as raised:
        _prepared(make(), 2, 0, **options)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_epochs_reach_samplers_and_datasets_that_want_to_know():
    class Dataset(Count):
        epochs: list[int] = []  # noqa: RUF012

        def set_epoch(self, epoch):
            self.epochs.append(epoch)

    loader = prepare_data_loader(Loader(Dataset(2)))
    for _ in range(2):
        list(loader)
    loader.set_epoch(7)
    list(loader)
    assert Dataset.epochs == [0, 1, 7, 7]
    assert loader.iteration == 8


def _seeded_sampler(seed):
    return SeedableRandomSampler(range(20), data_seed=seed)


def _generator(seed):
    return torch.Generator().manual_seed(seed)


SEEDS = {
    "of the configuration": lambda seed: ({"shuffle": True}, {"data_seed": seed}),
    "of the sampler": lambda seed: ({"sampler": _seeded_sampler(seed)}, {}),
    "of the sampler, set later": lambda seed: ({"sampler": _reseeded(seed)}, {}),
    "of the sampler's generator": lambda seed: (
        {"sampler": SeedableRandomSampler(range(20), generator=_generator(seed))},
        {},
    ),
    "of a plain sampler's generator": lambda seed: (
        {"sampler": RandomSampler(range(20), generator=_generator(seed))},
        {},
    ),
    "of the loader's generator": lambda seed: (
        {"shuffle": True, "generator": _generator(seed)},
        {},
    ),
    "of the configuration, before the sampler's": lambda seed: (
        {"sampler": _seeded_sampler(99)},
        {"data_seed": seed},
    ),
}


def _reseeded(seed):
    sampler = SeedableRandomSampler(range(20))
    sampler.initial_seed = seed
    return sampler


@pytest.mark.parametrize("procs", [1, 2])
@pytest.mark.parametrize("kind", list(SEEDS))
def test_a_seeded_order_follows_from_the_seed_that_was_given_and_the_epoch_alone(kind, procs):
    def order(epoch, seed):
        given, options = SEEDS[kind](seed)
        batches = []
        for index in range(procs):
            plain = Loader(range(20), batch_size=20 // procs, **given)
            torch.manual_seed(index)  # the seeds of ranks differ
            loader = _prepared(plain, procs, index, use_seedable_sampler=True, **options)
            loader.set_epoch(epoch)
            batches += [row for batch in loader for row in batch.tolist()]
        assert sorted(batches) == list(range(20))
        return batches

    assert order(1, seed=5) == order(1, seed=5) == order(0, seed=6)
    assert order(1, seed=5) != order(2, seed=5)
    assert order(1, seed=5) != order(1, seed=7)


def test_a_given_sampler_stays_as_it_is_and_one_that_draws_in_its_own_way_is_used():
    sampler = _seeded_sampler(3)
    loader = _prepared(
        Loader(range(20), sampler=sampler), 2, 0, use_seedable_sampler=True, data_seed=4
    )
    list(loader)
    assert (sampler.initial_seed, sampler.epoch) == (3, 0)

    class Backwards(RandomSampler):
        def __iter__(self):
            return reversed(range(20))

    plain = Loader(range(20), batch_size=20, sampler=Backwards(range(20)))
    (batch,) = _prepared(plain, 1, 0, use_seedable_sampler=True)
    assert batch.tolist() == list(reversed(range(20)))
