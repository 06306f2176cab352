"""How one process loads batches itself: torch's iterators, with what is known of each batch."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from typing import Any

from torch.utils.data import DataLoader

from accelnb.errors import AccelnbError
from accelnb.training.data.index_feed import IndexFeed, Note
from accelnb.training.data.iterable_datasets import CountingCollate

_ARGUMENTS = (
    "num_workers", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context",
    "generator", "prefetch_factor", "persistent_workers", "pin_memory_device", "in_order",
)  # fmt: skip


def kept_arguments(loader: DataLoader[Any]) -> dict[str, Any]:
    """Return the arguments of a loader that do not say which samples are in which batch."""
    return {name: getattr(loader, name) for name in _ARGUMENTS if hasattr(loader, name)}


def read_indexed(
    loader: DataLoader[Any],
    feed: IndexFeed,
    order: AbstractContextManager[None],
    skip: int,
    keep: int,
) -> Generator[tuple[Any, Note]]:
    """Yield the batches whose indices `feed` gives a loader, without the first `skip`.

    Parameters
    ----------
    order
        Within it the order is drawn.
    keep
        How many of the first are not left out.
    """
    with order:
        feed.skip, feed.keep = skip, keep
        iterator = DataLoader.__iter__(loader)
        drawn = feed.latest
        drawn.draw()
    for batch in iterator:
        yield batch, drawn.arrived()


def read_samples(
    loader: DataLoader[Any],
    inner: Any,
    order: AbstractContextManager[None],
    skip: int,
    keep: int,
    remainder: int,
) -> Generator[tuple[Any, Note]]:
    """Yield batches of an iterable dataset, as `read_indexed` does; `inner` is torchdata's loader.

    What is left out has to be read: nobody else knows where it ends.
    """
    with order:
        iterator = _counting_iterator(loader) if inner is None else iter(inner)
        kept = list(itertools.islice(iterator, keep))
        for _ in itertools.islice(iterator, skip - keep):
            pass
    for data, samples, duplicates in itertools.chain(kept, iterator):
        state = None if inner is None else inner.state_dict()
        yield data, Note(samples, duplicates, remainder, inner=state)


def _counting_iterator(loader: DataLoader[Any]) -> Iterator[Any]:
    collate = loader.collate_fn
    loader.collate_fn = CountingCollate(collate, loader._auto_collation)
    try:
        return DataLoader.__iter__(loader)
    finally:
        loader.collate_fn = collate


def inner_loader(loader: DataLoader[Any]) -> Any:
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
