"""The loader whose ranks each load their own part."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from accelnb.training.communication import wire_device
from accelnb.training.data.index_feed import Note
from accelnb.training.data.iterable_datasets import looked_ahead, until_all_end
from accelnb.training.data.prepared_loader import PreparedLoader


class DataLoaderShard(PreparedLoader):
    """A loader that loads this rank's part of the data itself.

    See `PreparedLoader` for its parameters and attributes.

    Parameters
    ----------
    _agree
        Ranks read different shards of an iterable dataset: end together.

    Examples
    --------
    >>> from accelnb.training.data.sharded_loader import DataLoaderShard
    >>> loader = DataLoaderShard(range(5), batch_size=2)
    >>> [(batch.tolist(), loader.end_of_dataloader) for batch in loader]
    [([0, 1], False), ([2, 3], False), ([4], True)]
    """

    def __init__(self, dataset: Any, *args: Any, _agree: bool = False, **kwargs: Any) -> None:
        super().__init__(dataset, *args, **kwargs)
        self._agree = _agree

    def _handed_out(self, skip: int, resumed: dict[str, Any] | None) -> Generator[tuple[Any, Note]]:
        batches = self._read(skip, resumed)
        return self._with_end(batches) if self.is_iterable else batches

    def _with_end(self, batches: Iterator[tuple[Any, Note]]) -> Generator[tuple[Any, Note]]:
        if self._agree:
            batches = until_all_end(batches, wire_device())
        # Only the next batch tells whether the one in hand is the last.
        for (batch, note), _, last in looked_ahead(batches):
            yield batch, note._replace(end=last)


class SkipDataLoader(DataLoaderShard):
    """A loader without its first batches, as `skip_first_batches` makes it of a plain one."""

    def __init__(self, dataset: Any, skip_batches: int = 0, **kwargs: Any) -> None:
        super().__init__(dataset, skip_batches=skip_batches, **kwargs)
