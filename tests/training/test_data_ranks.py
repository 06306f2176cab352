"""Loaders on real ranks: one order for all, and data that rank 0 sends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch.utils.data import DataLoader, IterableDataset

from accelnb.training.data.prepare import prepare_data_loader, skip_first_batches
from accelnb.training.data.samplers import SeedableRandomSampler
from accelnb.training.state import PartialState

Loader: Any = DataLoader  # takes a range for a dataset too


class Count(IterableDataset):
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return iter(range(self.n))


def _orders(kind):
    rank = PartialState().process_index
    torch.manual_seed(rank)  # every rank has random numbers of its own
    data, options = range(24), {}
    sampler: object = None
    if kind == "generator":
        options["generator"] = torch.Generator().manual_seed(rank)
    if kind == "seeded sampler":
        sampler = SeedableRandomSampler(data)
    if kind == "weighted":
        sampler = torch.utils.data.WeightedRandomSampler([1.0] * 24, 24, replacement=False)
    plain = Loader(
        data,
        batch_size=3,
        shuffle=None if sampler else True,
        sampler=sampler,
        num_workers=2 * (kind == "workers"),
        **options,
    )
    loader = prepare_data_loader(
        plain, rng_types=["generator"], use_seedable_sampler=kind == "seedable"
    )
    return [[row for batch in loader for row in batch.tolist()] for _ in range(2)]


@pytest.mark.parametrize(
    "kind", ["none", "generator", "weighted", "seedable", "seeded sampler", "workers"]
)
def test_all_ranks_shuffle_alike_and_anew_in_each_epoch(kind):
    ranks = on_ranks(_orders, kind)
    for epoch in range(2):
        assert sorted(ranks[0][epoch] + ranks[1][epoch]) == list(range(24))
    assert ranks[0][0] != ranks[0][1]


def _dispatched(make, procs_split=False, even=True, **options):
    loader = prepare_data_loader(
        make(),
        device=PartialState().device,
        put_on_device=True,
        split_batches=procs_split,
        even_batches=even,
        **options,
    )
    seen = []
    for batch in loader:
        rows = batch.tolist() if isinstance(batch, torch.Tensor) else batch
        seen.append((rows, loader.duplicates, loader.end_of_dataloader))
    return seen, loader.remainder, type(loader).__name__


def _iterable(n, workers=0, drop_last=False):
    return lambda: Loader(Count(n), batch_size=2, num_workers=workers, drop_last=drop_last)


def test_rank_0_reads_an_iterable_dataset_and_sends_each_rank_its_part():
    first, second = on_ranks(_dispatched, _iterable(8))
    assert first == (
        [([0, 1], 0, False), ([4, 5], 0, True)], 0, "DataLoaderDispatcher"
    )  # fmt: skip
    assert second[0] == [([2, 3], 0, False), ([6, 7], 0, True)]


def _drawn_beside(workers, generator):
    torch.manual_seed(3)
    given = {"generator": torch.Generator().manual_seed(5)} if generator else {}
    plain = Loader(Count(8), batch_size=2, num_workers=workers, **given)
    loader = prepare_data_loader(plain, device=PartialState().device, put_on_device=True)
    return [torch.rand(1).item() for _ in range(2) for _ in loader]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("generator", [False, True])
def test_random_numbers_stay_in_step_where_rank_0_reads(workers, generator):
    zero, one = on_ranks(_drawn_beside, workers, generator)
    assert zero == one
    torch.manual_seed(3)
    given = {"generator": torch.Generator().manual_seed(5)} if generator else {}
    plain = Loader(Count(4), batch_size=2, **given)  # as many batches as a rank gets
    assert zero == [torch.rand(1).item() for _ in range(2) for _ in plain]


@pytest.mark.parametrize("n", [1, 5, 6, 7])
def test_what_does_not_divide_is_completed_from_the_beginning_and_counted(n):
    ranks = on_ranks(_dispatched, _iterable(n), procs=3)
    kept = [
        row for seen, _, _ in ranks for rows, extra, _ in seen for row in rows[: len(rows) - extra]
    ]
    assert sorted(kept) == list(range(n))
    assert len({len(seen) for seen, _, _ in ranks}) == 1
    assert len({tuple(len(rows) for rows, _, _ in seen) for seen, _, _ in ranks}) == 1
    assert all(seen[-1][2] and not any(end for *_, end in seen[:-1]) for seen, _, _ in ranks)
    assert {remainder for _, remainder, _ in ranks} == {{1: 1, 5: 5, 6: 0, 7: 1}[n]}


def test_without_even_batches_rank_0_repeats_nothing():
    ranks = on_ranks(_dispatched, _iterable(7), False, False, procs=3)
    assert [seen for seen, _, _ in ranks] == [
        [([0, 1], 0, False), ([6], 0, True)],
        [([2, 3], 0, True)],
        [([4, 5], 0, True)],
    ]


def test_dropping_the_last_leaves_out_an_incomplete_round():
    ranks = on_ranks(_dispatched, _iterable(7, drop_last=True))
    assert [seen for seen, _, _ in ranks] == [[([0, 1], 0, True)], [([2, 3], 0, True)]]


def test_workers_and_split_batches_work_where_rank_0_reads():
    make = lambda: Loader(range(6), batch_size=4, num_workers=2)  # noqa: E731
    ranks = on_ranks(_dispatched, make, True, dispatch_batches=True)
    assert [seen for seen, _, _ in ranks] == [
        [([0, 1], 0, False), ([4], 0, True)],
        [([2, 3], 0, False), ([5], 0, True)],
    ]


def _texts_of_different_lengths():
    def collate(rows):
        return {"ids": torch.ones(len(rows), max(rows)).bool(), "text": [str(r) for r in rows]}

    plain = Loader(Count(5), batch_size=1, collate_fn=collate)
    loader = prepare_data_loader(plain, PartialState().device, put_on_device=True)
    return [
        (tuple(batch["ids"].shape), batch["ids"].dtype, batch["text"], loader.duplicates)
        for batch in loader
    ]


def test_batches_that_cannot_be_joined_are_sent_whole():
    first, second = on_ranks(_texts_of_different_lengths)
    assert [b[2] for b in first] == [["0"], ["2"], ["4"]]
    assert second == [
        ((1, 1), torch.bool, ["1"], 0),
        ((1, 3), torch.bool, ["3"], 0),
        ((1, 0), torch.bool, ["0"], 1),
    ]


def _sliced_by_hand():
    def every_other(batch, part, process_index, num_processes):
        return batch[process_index::num_processes]

    return _dispatched(
        lambda: Loader(range(4), batch_size=4), True,
        dispatch_batches=True, slice_fn_for_dispatch=every_other,
    )[0]  # fmt: skip


def test_the_user_can_say_how_a_batch_is_sliced():
    assert on_ranks(_sliced_by_hand) == [[([0, 2], 0, True)], [([1, 3], 0, True)]]


def _rank_0_fails():
    class Breaks(IterableDataset):
        def __iter__(self):
            yield from range(4)
            raise ValueError("bad shard 7")

    loader = prepare_data_loader(
        Loader(Breaks(), batch_size=1), PartialState().device, put_on_device=True
    )
    seen = []
    try:
        for batch in loader:
            seen += batch.tolist()
    except Exception as error:
        seen.append(f"{type(error).__name__}: {error}")
    return seen, loader.gradient_state.in_dataloader


def test_an_error_while_rank_0_reads_is_raised_on_every_rank():
    first, second = on_ranks(_rank_0_fails)
    assert first == ([0, 2, "ValueError: bad shard 7"], False)
    error = "AccelnbError: rank 0 could not read the next batch: ValueError: bad shard 7"
    assert second == ([1, 3, error], False)


class Sharded(Count):
    """Has the interface of an iterable dataset of Hugging Face's datasets."""

    num_shards = 2

    def shard(self, num_shards, index):
        assert num_shards == 2
        return Rest() if index else Count(5)


class Rest(IterableDataset):
    def __iter__(self):
        return iter(range(10, 13))


def _own_shards(even):
    return _dispatched(lambda: Loader(Sharded(0), batch_size=2), False, even)


def test_a_dataset_with_enough_shards_is_read_by_every_rank_and_all_end_together():
    first, second = on_ranks(_own_shards, True)
    assert first[2] == "DataLoaderShard"
    assert first[0] == [([0, 1], 0, False), ([2, 3], 0, False), ([4], 0, True)]
    assert second[0] == [([10, 11], 0, False), ([12], 0, False), ([10, 11], 2, True)]
    _, second = on_ranks(_own_shards, False)
    assert second[0] == [([10, 11], 0, False), ([12], 0, True)]


def _mesh(dispatch):
    mesh = torch.distributed.init_device_mesh("cpu", (1, 2), mesh_dim_names=("dp_shard", "tp"))
    loader = prepare_data_loader(
        Loader(range(4), batch_size=2, shuffle=True), PartialState().device,
        put_on_device=True, dispatch_batches=dispatch, torch_device_mesh=mesh,
        rng_types=["generator"],
    )  # fmt: skip
    torch.manual_seed(0)
    return [batch.tolist() for batch in loader]


def test_ranks_of_one_tensor_parallel_group_get_the_same_batches():
    for dispatch in (False, True):
        first, second = on_ranks(_mesh, dispatch)
        assert first == second
        assert sorted(first[0] + first[1]) == [0, 1, 2, 3]


def _skipped_dispatch():
    loader = prepare_data_loader(
        Loader(Count(9), batch_size=2), PartialState().device, put_on_device=True
    )
    rest = skip_first_batches(loader, 1)
    return [(batch.tolist(), rest.end_of_dataloader) for batch in rest], rest.remainder


def test_the_first_batches_can_be_skipped_where_rank_0_reads():
    first, second = on_ranks(_skipped_dispatch)
    assert first == ([([4, 5], False), ([8], True)], 1)
    assert second == ([([6, 7], False), ([0], True)], 1)
