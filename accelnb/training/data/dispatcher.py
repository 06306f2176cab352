"""The loader of which rank 0 loads all data and sends each rank its part."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from accelnb.errors import AccelnbError
from accelnb.training.communication import broadcast_object, wire_device
from accelnb.training.data.index_feed import Note
from accelnb.training.data.iterable_datasets import looked_ahead
from accelnb.training.data.prepared_loader import PreparedLoader
from accelnb.training.pytree import (
    concatenate,
    get_data_structure,
    ignorant_find_batch_size,
    is_tensor_information,
    recursively_apply,
    slice_tensors,
)
from accelnb.training.state import PartialState

_Batch = tuple[Any, Note]


class Announcement(NamedTuple):
    """What rank 0 says before each round."""

    parts: list[Any]  # for each place: the structure of its part, or None if it gets none
    notes: list[Note]
    error: str = ""


class DataLoaderDispatcher(PreparedLoader):
    """A loader that loads on rank 0 alone and sends each rank its part of every round.

    Parameters
    ----------
    dataset, **kwargs
        Of `PreparedLoader`.
    split_batches
        A round is one batch of the loader. Otherwise one batch for each rank.
    slice_fn
        Called on rank 0 as ``slice_fn(batch, slice, process_index=, num_processes=)`` for the
        part of each rank; by default `slice_tensors`.
    even_batches
        In the last round, give every rank as many samples: repeat samples from the beginning.
    _places
        For each rank, which part it gets: ranks of one tensor-parallel group get the same.

    Raises
    ------
    AccelnbError
        While iterating: rank 0 could not read the data, or batches could not be divided. It is
        raised on every rank but 0, which raises the error itself.

    Examples
    --------
    >>> from accelnb.training.data.dispatcher import DataLoaderDispatcher
    >>> loader = DataLoaderDispatcher(range(5), batch_size=2)
    >>> [(batch.tolist(), loader.end_of_dataloader) for batch in loader]
    [([0, 1], False), ([2, 3], False), ([4], True)]
    """

    def __init__(
        self,
        dataset: Any,
        split_batches: bool = False,
        skip_batches: int = 0,
        slice_fn: Callable[..., Any] | None = None,
        even_batches: bool = True,
        _places: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        places = _places or list(range(PartialState().num_processes))
        super().__init__(
            dataset, skip_batches=skip_batches, _num_processes=max(places) + 1, **kwargs
        )
        self.split_batches = split_batches
        self.slice_fn = slice_fn
        self.even_batches = even_batches
        self._places = places

    @property
    def divider(self) -> Any:
        return self

    @property
    def _read_per_round(self) -> int:
        return 1 if self.split_batches else self._ranks()

    @property
    def total_batch_size(self) -> int | None:
        size = getattr(self if self.is_iterable else self._own_sampler, "batch_size", None)
        return None if size is None else size * self._read_per_round

    def __len__(self) -> int:
        batches = super().__len__() + self.skip_batches
        rounds = batches / self._read_per_round
        whole = math.floor(rounds) if self._drop_last else math.ceil(rounds)
        return max(0, whole - self.skip_batches)

    def _handed_out(self, skip: int, resumed: dict[str, Any] | None) -> Generator[_Batch]:
        if PartialState().process_index == 0:
            yield from self._lead(skip, resumed)
        else:
            if resumed is None or resumed["torch_rng"] is None:
                # As the iterator on rank 0 does: random numbers stay in step.
                torch.empty((), dtype=torch.int64).random_(generator=self.generator)
            yield from self._follow()

    # ---- rank 0 ----

    def _lead(self, skip: int, resumed: dict[str, Any] | None) -> Generator[_Batch]:
        rounds = looked_ahead(self._rounds(skip, resumed))
        while True:
            try:
                item = next(rounds, None)
            except Exception as error:
                announced(Announcement([], [], f"{type(error).__name__}: {error}"))
                raise
            if item is None:  # no batch at all
                announced(Announcement([], []))
                return
            parts, following, last = item
            yield from self._deal(parts, following, last)
            if last:
                return

    def _deal(
        self, parts: list[_Batch | None], following: list[_Batch | None] | None, last: bool
    ) -> Generator[_Batch]:
        structures = [None if part is None else (get_data_structure(part[0]),) for part in parts]
        notes = [Note() if part is None else part[1] for part in parts]
        notes = [
            note._replace(end=last or (following is not None and following[place] is None))
            for place, note in enumerate(notes)
        ]
        announced(Announcement(structures, [note._replace(inner=None) for note in notes]))
        device = wire_device()
        begun = [
            sent
            for rank, place in enumerate(self._places)
            if rank != 0 and (part := parts[place]) is not None
            for sent in _sending(part[0], rank, device)
        ]
        for work, _ in begun:
            work.wait()
        own = parts[self._places[0]]
        if own is not None:
            yield own[0], notes[self._places[0]]

    def _rounds(self, skip: int, resumed: Any) -> Iterator[list[_Batch | None]]:
        """Yield the parts of each round."""
        each = self._read_per_round
        batches = self._read(skip * each, resumed, keep=each if skip else 0)
        first: list[_Batch] = []
        if skip and not self._goes_on_inside(resumed, skip * each):
            first = self._skipped_round(batches, resumed)
        while together := list(itertools.islice(batches, each)):
            first = first or together
            if len(together) == each or not self._drop_last:
                parts = self._divided(together, first)
                state = together[-1][1].inner  # after all that was read for this round
                yield [part and (part[0], part[1]._replace(inner=state)) for part in parts]

    def _skipped_round(self, batches: Iterator[_Batch], resumed: Any) -> list[_Batch]:
        """Load the first round, which completes the last, as if it had not been loaded now."""
        now = torch.get_rng_state()
        first = list(itertools.islice(batches, self._read_per_round))
        if resumed is not None:
            torch.set_rng_state(now)
        return first

    def _divided(self, together: list[_Batch], first: list[_Batch]) -> list[_Batch | None]:
        sizes = [_size(*batch) for batch in together]
        of_one_size = len(set(sizes)) == 1 or not self.even_batches
        if self.slice_fn is None and not self.split_batches:
            if len(together) == self._ranks() and of_one_size:
                return [(data, note._replace(remainder=0)) for data, note in together]
            if not _can_be_joined([*together, *first]):
                return self._whole(together, first)
        return self._sliced(together, first)

    def _whole(self, together: list[_Batch], first: list[_Batch]) -> list[_Batch | None]:
        """Give each rank a whole batch, or repeat one from the beginning."""
        real = sum(_size(*batch) or 0 for batch in together)
        parts: list[_Batch | None] = list(together)
        for missing in range(self._ranks() - len(together)):
            data, note = first[missing % len(first)]
            size = _size(data, note)
            repeated = note._replace(samples=size, duplicates=size or 0, remainder=real)
            parts.append((data, repeated) if self.even_batches else None)
        return parts

    def _sliced(self, together: list[_Batch], first: list[_Batch]) -> list[_Batch | None]:
        """Join the batches and give each rank as many samples."""
        ranks = self._ranks()
        data = _joined(together)
        real = _size(data, together[0][1])
        if real is None:
            raise AccelnbError(
                f"dispatch_batches=True: the batches, of type {type(data).__name__}, have no "
                "tensors to divide; pass dispatch_batches=False, or a slice_fn_for_dispatch for "
                "batches of a known size"
            )
        each = math.ceil(real / ranks)
        total = each * ranks if self.even_batches else real
        if total > real:
            data = _completed(data, total - real, _joined(first))
        slice_part = self.slice_fn or slice_tensors
        parts: list[_Batch | None] = []
        for place in range(ranks):
            start, end = place * each, min((place + 1) * each, total)
            if start >= end:
                parts.append(None)
                continue
            repeated = max(0, end - max(start, real))
            note = Note(end - start, repeated, real if total > real else 0)
            piece = slice_part(data, slice(start, end), process_index=place, num_processes=ranks)
            parts.append((piece, note))
        return parts

    # ---- the other ranks ----

    def _follow(self) -> Generator[_Batch]:
        place = self._places[PartialState().process_index]
        device = wire_device()
        while True:
            said: Announcement = announced(None)
            if said.error:
                raise AccelnbError(f"rank 0 could not read the next batch: {said.error}")
            if not said.parts:
                return
            if (structure := said.parts[place]) is not None:
                yield _received(structure[0], device), said.notes[place]
            if all(note.end for note in said.notes):
                return


def _size(data: Any, note: Note) -> int | None:
    found = ignorant_find_batch_size(data)
    return note.samples if found is None else found


def _can_be_joined(batches: list[_Batch]) -> bool:
    try:
        _joined(batches)
    except (RuntimeError, TypeError, IndexError, KeyError):
        return False  # padded to different lengths, say, or with texts
    return True


def _joined(batches: list[_Batch]) -> Any:
    return batches[0][0] if len(batches) == 1 else concatenate([data for data, _ in batches])


def _completed(data: Any, missing: int, first: Any) -> Any:
    pieces = [data]
    while missing > 0:
        piece = slice_tensors(first, slice(0, missing))
        pieces.append(piece)
        missing -= ignorant_find_batch_size(piece) or missing
    return concatenate(pieces)


# ---- between the ranks ----


def announced(message: Any) -> Any:
    """Return what rank 0 passes, on every rank."""
    if not dist.is_initialized():
        return message
    return broadcast_object(message, from_process=0)


def _sending(part: Any, rank: int, device: torch.device) -> list[Any]:
    """Begin to send the tensors of a part; return what to wait for, with what to keep alive."""
    begun: list[Any] = []

    def send(tensor: torch.Tensor) -> None:
        content = _bytes(tensor.detach().to(device).contiguous())
        if content.numel():
            begun.append((dist.isend(content, rank), content))

    recursively_apply(send, part)
    return begun


def _received(structure: Any, device: torch.device) -> Any:
    """Return the part of which rank 0 announced the structure."""

    def receive(info: Any) -> torch.Tensor:
        tensor = torch.empty(info.shape, dtype=info.dtype, device=device)
        if tensor.numel():
            dist.recv(_bytes(tensor), src=0)
        return tensor

    return recursively_apply(receive, structure, test_type=is_tensor_information)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    # Not every backend knows every dtype.
    return tensor.reshape(-1).view(torch.uint8)
