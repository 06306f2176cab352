"""Loaders that give the ranks different numbers of batches."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

from accelnb.errors import AccelnbError
from accelnb.training.data.iterable_datasets import IterableDatasetShard
from accelnb.training.data.samplers import BatchSamplerShard


def refuse_uneven(loader: Any) -> None:
    """Refuse a loader, prepared without even batches, of which some ranks get fewer than others.

    Raises
    ------
    AccelnbError
        It is such a loader. Where only the end of the data will tell, there is a warning.
    """
    why = "every rank takes part in every pass of a sharded model: leave even_batches=True"
    counts = _batches_of_ranks(loader.divider)
    if counts is None:
        warnings.warn(
            f"even_batches=False: a rank with fewer batches leaves the others waiting, for {why}",
            stacklevel=2,
        )
    elif len(set(counts)) > 1:
        raise AccelnbError(
            f"even_batches=False: ranks get {max(counts)} and {min(counts)} batches of this "
            f"loader, and {why}, or give it drop_last=True"
        )


def _batches_of_ranks(divider: Any) -> list[int] | None:
    """Return how many batches each rank gets, None if that is not known."""
    if not isinstance(divider, BatchSamplerShard | IterableDatasetShard):
        return None
    try:
        return [_batches(divider, rank) for rank in range(divider.num_processes)]
    except TypeError:  # something in it has no length
        return None


def _batches(divider: Any, rank: int) -> int:
    its = copy.copy(divider)
    its.process_index = rank
    return len(its) if isinstance(its, BatchSamplerShard) else math.ceil(len(its) / its.each)
