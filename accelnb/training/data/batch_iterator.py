"""How one process loads batches itself: torch's iterators, with what is known of each batch."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

from accelnb.errors import AccelnbError
from accelnb.training.data.epoch_position import replayed
from accelnb.training.data.index_feed import Note
from accelnb.training.data.iterable_datasets import CountingCollate
from accelnb.training.state import PartialState

if TYPE_CHECKING:
    from accelnb.training.data.prepared_loader import PreparedLoader

_ARGUMENTS = (
    "num_workers", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context",
    "generator", "prefetch_factor", "persistent_workers", "pin_memory_device", "in_order",
)  # fmt: skip


def kept_arguments(loader: DataLoader[Any]) -> dict[str, Any]:
    """Return the arguments of a loader that do not say which samples are in which batch."""
    return {name: getattr(loader, name) for name in _ARGUMENTS if hasattr(loader, name)}


def read(
    loader: PreparedLoader, skip: int, resumed: dict[str, Any] | None, keep: int = 0
) -> Generator[tuple[Any, Note]]:
    """Yield what `loader` loads in this process, without the first `skip` batches.

    The first `keep` of these are not left out.
    With `resumed` the order is that of the epoch whose state that is.
    """
    read = _read_samples if loader.is_iterable else _read_indexed
    return read(loader, skip, resumed, min(keep, skip))


def _read_indexed(
    loader: PreparedLoader, skip: int, resumed: Any, keep: int
) -> Generator[tuple[Any, Note]]:
    with replayed(loader._order_source(), resumed, PartialState().process_index):
        loader._feed.skip, loader._feed.keep = skip, keep
        iterator = DataLoader.__iter__(loader)
        drawn = loader._feed.latest
        drawn.draw()
    for batch in iterator:
        yield batch, drawn.arrived()


def _read_samples(
    loader: PreparedLoader, skip: int, resumed: Any, keep: int
) -> Generator[tuple[Any, Note]]:
    inner = loader._inner
    if inner is not None and goes_on_inside(loader, resumed, skip):
        inner.load_state_dict(resumed["inner"])
        skip = keep = 0
    with replayed(loader._order_source(), resumed, PartialState().process_index):
        iterator = _counting_iterator(loader) if inner is None else iter(inner)
        kept = list(itertools.islice(iterator, keep))
        # What is left out has to be read: nobody else knows where it ends.
        for _ in itertools.islice(iterator, skip - keep):
            pass
    remainder = loader._expected_remainder()
    for data, samples, duplicates in itertools.chain(kept, iterator):
        state = None if inner is None else inner.state_dict()
        yield data, Note(samples, duplicates, remainder, inner=state)


def goes_on_inside(loader: PreparedLoader, resumed: Any, skip: int) -> bool:
    """Return whether torchdata's loader goes on by itself after the first `skip` batches."""
    if loader._inner is None or resumed is None or resumed["inner"] is None:
        return False
    same_ranks = resumed["num_processes"] == loader._ranks()
    return same_ranks and resumed["batches"] * loader._read_per_round == skip


def _counting_iterator(loader: PreparedLoader) -> Iterator[Any]:
    collate = loader.collate_fn
    loader.collate_fn = CountingCollate(collate, loader._auto_collation)
    try:
        return DataLoader.__iter__(loader)
    finally:
        loader.collate_fn = collate


def inner_loader(loader: PreparedLoader) -> Any:
    """Return torchdata's loader of the same batches, which can save the dataset's own place.

    Raises
    ------
    AccelnbError
        torchdata is not installed.
    """
    try:
        from torchdata.stateful_dataloader import (  # pyright: ignore[reportMissingImports]
            StatefulDataLoader,
        )
    except ImportError as error:
        raise AccelnbError(
            "use_stateful_dataloader=True: an iterable-style dataset needs torchdata for it; "
            "pip install torchdata"
        ) from error
    return StatefulDataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        drop_last=loader.drop_last,
        collate_fn=CountingCollate(loader.collate_fn, loader._auto_collation),
        **kept_arguments(loader),
    )
