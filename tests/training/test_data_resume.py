"""A loader that goes on in the middle of an epoch gives exactly the rest of it."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SubsetRandomSampler

from accelnb import AccelnbError
from accelnb.training.data.prepare import prepare_data_loader, skip_first_batches
from accelnb.training.data.samplers import SeedableRandomSampler
from accelnb.training.state import PartialState

Loader: Any = DataLoader  # takes a range for a dataset too


class Noisy:
    """Samples that are augmented by torch's random numbers, in this process or in a worker."""

    def __len__(self):
        return 23

    def __getitem__(self, index):
        return torch.tensor([float(index), torch.rand(()).item()])


class Shuffled(IterableDataset):
    """Iterable, in an order that follows from the epoch."""

    def __init__(self):
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        yield from torch.randperm(23, generator=torch.Generator().manual_seed(self.epoch)).tolist()


KINDS = {
    "in order": lambda: Loader(Noisy(), batch_size=2),
    "shuffled": lambda: Loader(Noisy(), batch_size=2, shuffle=True),
    "workers": lambda: Loader(Noisy(), batch_size=2, shuffle=True, num_workers=2),
    "generator": lambda: Loader(
        Noisy(), batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(1)
    ),
    "replacement": lambda: Loader(
        Noisy(), batch_size=2, sampler=RandomSampler(range(23), replacement=True, num_samples=40)
    ),
    "seeded sampler": lambda: Loader(
        Noisy(), batch_size=2, sampler=SeedableRandomSampler(range(23), data_seed=3)
    ),
    "subset": lambda: Loader(Noisy(), batch_size=2, sampler=SubsetRandomSampler(range(15))),
    "iterable": lambda: Loader(Shuffled(), batch_size=2),
}


def _made(kind, stateful=False, **options):
    device = PartialState().device
    return prepare_data_loader(
        KINDS[kind](),
        device,
        put_on_device=True,
        rng_types=["generator"],
        use_stateful_dataloader=stateful,
        **options,
    )


def _stored(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _rest_and_resumed(kind, at, skip_by_hand, options=None):
    """Return what came after a checkpoint, in two epochs, and what a new loader gives."""

    # Workers, and rank 0 where it reads ahead, have augmented more than was handed out.
    exact = kind != "workers" and not (options or {}).get("dispatch_batches")

    def note(loader, batch):
        rows = batch if exact else batch.long()
        return rows.tolist(), loader.duplicates, loader.end_of_dataloader, loader.remainder

    torch.manual_seed(PartialState().process_index)
    loader = _made(kind, not skip_by_hand, **(options or {}))
    list(loader)
    state, random, rest = None, None, []
    for index, batch in enumerate(loader):
        if state is not None:
            rest.append(note(loader, batch))
        if index == at - 1:
            state, random = _stored(loader.state_dict()), torch.get_rng_state()
    rest.append([note(loader, batch) for batch in loader])
    assert state is not None
    assert random is not None

    torch.manual_seed(99)
    again = _made(kind, not skip_by_hand, **(options or {}))
    again.load_state_dict(state)
    torch.set_rng_state(random)
    first = skip_first_batches(again, at) if skip_by_hand else again
    resumed: list[Any] = [note(first, batch) for batch in first]
    resumed.append([note(again, batch) for batch in again])
    return rest, resumed


@pytest.mark.parametrize("kind", list(KINDS))
def test_one_process_goes_on_to_the_bit(kind):
    for at in (1, 5):
        rest, resumed = _rest_and_resumed(kind, at, skip_by_hand=True)
        assert len(rest) > 1
        assert resumed == rest
        if kind != "iterable":
            assert _rest_and_resumed(kind, at, skip_by_hand=False)[1] == rest


@pytest.mark.parametrize("kind", list(KINDS))
def test_two_ranks_go_on_to_the_bit(kind):
    for rest, resumed in on_ranks(_rest_and_resumed, kind, 2, True):
        assert resumed == rest
    if kind != "iterable":
        for rest, resumed in on_ranks(_rest_and_resumed, kind, 2, False):
            assert resumed == rest


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("shuffled", {"use_seedable_sampler": True}),
        ("seeded sampler", {"use_seedable_sampler": True}),
        ("shuffled", {"split_batches": True}),
        ("shuffled", {"even_batches": False}),
        ("generator", {"dispatch_batches": True}),
        ("iterable", {"dispatch_batches": False}),
    ],
)
def test_the_other_ways_to_divide_go_on_too(kind, options):
    for rest, resumed in on_ranks(_rest_and_resumed, kind, 3, True, options):
        assert resumed == rest


def test_nothing_is_left_of_an_epoch_whose_last_batch_was_handed_out():
    loader = _made("in order", stateful=True)
    for _ in loader:
        state = loader.state_dict()
    again = _made("in order", stateful=True)
    again.load_state_dict(state)
    assert list(again) == []
    assert again.iteration == 1
    assert len(list(again)) == 12


def test_between_epochs_the_state_leads_to_the_next_one():
    loader = _made("generator")
    list(loader)
    state = _stored(loader.state_dict())
    assert (state["epoch"], state["batches"]) == (1, 0)
    again = _made("generator")
    again.load_state_dict(state)
    assert [b[:, 0].tolist() for b in again] == [b[:, 0].tolist() for b in loader]


def test_a_skipping_copy_knows_its_length_and_end_and_the_original_its_place():
    loader = _made("in order")
    rest = skip_first_batches(skip_first_batches(loader, 4), 5)
    assert (len(loader), len(rest)) == (12, 3)
    ends = []
    for _ in rest:
        ends.append(rest.gradient_state.end_of_dataloader)
        place = loader.state_dict()["batches"]
    assert ends == [False, False, True]
    assert place == 12
    assert loader.iteration == 1


def test_data_that_is_skipped_is_not_loaded():
    class Recording:
        loaded: list[int] = []  # noqa: RUF012

        def __len__(self):
            return 6

        def __getitem__(self, index):
            self.loaded.append(index)
            return index

    assert len(list(skip_first_batches(prepare_data_loader(Loader(Recording())), 4))) == 2
    assert len(list(skip_first_batches(Loader(Recording()), 4))) == 2
    assert Recording.loaded == [4, 5, 4, 5]


def test_plain_loaders_of_each_kind_can_skip():
    class Three(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    assert [b.tolist() for b in skip_first_batches(Loader(Three()), 1)] == [[1], [2]]
    assert list(skip_first_batches(Loader(range(3), batch_size=None), 1)) == [1, 2]


def _positions(state, batches):
    """Resume from another number of ranks; return samples by rank."""
    loader = _made("shuffled", stateful=True)
    if state is not None:
        loader.load_state_dict(state)
    seen: list[Any] = []
    for index, batch in enumerate(loader):
        seen.append(batch[:, 0].tolist())
        if index == batches - 1:
            return seen, loader.state_dict()
    return seen, None


def test_another_number_of_ranks_goes_on_at_the_same_sample_of_the_same_order():
    def flat(batches):
        return [sample for batch in batches for sample in batch]

    torch.manual_seed(5)
    begun, state = _positions(None, 5)
    ranks = on_ranks(_positions, state, 0)
    # Two ranks go on after 8 of the 10 samples: after two whole rounds.
    rounds = [ranks[0][0][index] + ranks[1][0][index] for index in range(4)]
    assert flat(begun)[8:] == flat(rounds)[:2]
    assert sorted(flat(begun)[:8] + flat(rounds)[:15]) == list(range(23))

    ranks = on_ranks(_positions, None, 3)
    rest, _ = _positions(ranks[0][1], 0)
    handed_out = flat(ranks[0][0]) + flat(ranks[1][0])
    assert sorted(handed_out + flat(rest)) == list(range(23))


def test_what_is_not_a_loaders_state_is_refused_and_changes_nothing():
    loader = _made("in order")
    before = loader.state_dict()
    with pytest.raises(AccelnbError, match=r"not the state of a prepared loader: it has lr$"):
        loader.load_state_dict({"lr": 1})
    with pytest.raises(AccelnbError, match="batches='many'"):
        loader.load_state_dict(before | {"batches": "many"})
    assert loader.state_dict()["batches"] == 0


def test_an_iterable_dataset_needs_torchdata_to_be_stateful(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchdata.stateful_dataloader", None)
    with pytest.raises(AccelnbError, match="pip install torchdata"):
        _made("iterable", stateful=True)


def _goes_on_by_its_own_state():
    class Places(IterableDataset):
        """Knows its own place, as a streaming dataset does."""

        read = 0
        next = 0

        def __iter__(self):
            while self.next < 23:
                Places.read += 1
                self.next += 1
                yield self.next - 1

        def state_dict(self):
            return {"next": self.next}

        def load_state_dict(self, state):
            self.next = state["next"]

    def made():
        plain = Loader(Places(), batch_size=2)
        device = PartialState().device
        return prepare_data_loader(plain, device, put_on_device=True, use_stateful_dataloader=True)

    state: Any = None
    rest, loader = [], made()
    for index, batch in enumerate(loader):
        if state is not None:
            rest.append((batch.tolist(), loader.duplicates))
        if index == 2:
            state = _stored(loader.state_dict())
    assert state is not None
    again = made()
    again.load_state_dict(state)
    Places.read = 0
    return rest, [(batch.tolist(), again.duplicates) for batch in again], Places.read


def test_a_stateful_iterable_dataset_goes_on_without_reading_what_was_handed_out():
    pytest.importorskip("torchdata")
    rest, resumed, read = _goes_on_by_its_own_state()
    assert resumed == rest
    assert len(rest) == 9
    assert read == 23 - 6
    for rest, resumed, _ in on_ranks(_goes_on_by_its_own_state):
        assert [rows for rows, _ in resumed[:-1]] == [rows for rows, _ in rest[:-1]]
        assert [extra for _, extra in resumed] == [extra for _, extra in rest]
