"""Gathering for metrics: every sample once, whatever the sizes of the ranks' batches."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from accelnb.training import communication, debug_mode
from accelnb.training.gradients import ActiveLoader
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.pytree import (
    honor_type,
    is_namedtuple,
    is_torch_tensor,
    rebuilt_mapping,
    recursively_apply,
)

# Row counts that the message about sizes always has place for. So it has one length on all
# ranks, also where they give different structures, and this is found out.
_PLACES = 14


def gathered(data: Any, loader: ActiveLoader | None, as_objects: bool, mesh: Mesh) -> Any:
    """Return the structure with the samples of all ranks, without repeated ones.

    Parameters
    ----------
    data
        Of the batch in hand. Tensors and lists that are as long as it lose the samples that
        were repeated to fill it. Others stay whole (a loss, say), but on ranks that the last
        samples did not suffice for: those have nothing to say.
    loader
        That of the batch in hand, if there is one.
    as_objects
        Whether tensors travel as objects, which need not fit together.
    mesh
        How the ranks share the data: of those with the same part the first counts.

    Raises
    ------
    DistributedOperationException
        The ranks give different structures, or tensors that differ in more than the first
        dimension. Every rank raises it.
    """
    batch = _batch(loader, mesh)
    if as_objects or not _is_all_tensors(data):
        parts = _gather_objects(_cut_objects(data, batch, as_objects), mesh)
        return _joined(parts, as_objects)
    cut = recursively_apply(lambda tensor: _cut(tensor, batch), data)
    return _gather_rows(cut, mesh)


def _gather_rows(data: Any, mesh: Mesh) -> Any:
    """Return the structure with the tensors of the ranks concatenated, rank 0's first.

    First dimensions may differ between ranks, and be 0. Scalars count as one row.
    """
    tensors = [_at_least_1d(tensor) for tensor in communication.tensors_in(data)]
    if mesh.data_shares > 1 and tensors:
        sizes = _exchange_sizes(data, tensors)
        tensors = [
            _all_gather_rows(tensor, [rank[i] for rank in sizes], mesh.first_with_each_share)
            for i, tensor in enumerate(tensors)
        ]
    return communication.with_tensors(data, tensors)


def _exchange_sizes(data: Any, tensors: list[torch.Tensor]) -> list[list[int]]:
    """Return the first dimensions of each rank's tensors, once it is sure that the rest fits."""
    fingerprint = zlib.crc32(debug_mode.described(data, debug_mode.rows).encode())
    mine = [tensor.shape[0] for tensor in tensors]
    spare = [0] * (_PLACES - len(mine))
    everyone = communication.all_gather_numbers([fingerprint, *mine, *spare])
    if len({numbers[0] for numbers in everyone}) > 1:  # all ranks see this, and say what differs
        debug_mode.compare("gather_for_metrics", data, debug_mode.rows)
    return [numbers[1:] for numbers in everyone]


def _all_gather_rows(tensor: torch.Tensor, sizes: list[int], chosen: list[int]) -> torch.Tensor:
    most = max(sizes)
    if min(sizes) == most and len(chosen) == len(sizes):
        return communication.all_gather(tensor).flatten(0, 1)
    padded = tensor.new_zeros(most, *tensor.shape[1:])
    padded[: len(tensor)] = tensor.detach()
    received = communication.all_gather(padded)
    return torch.cat([received[rank][: sizes[rank]] for rank in chosen])


class _Batch(NamedTuple):
    """What is known of the batch in hand."""

    samples: int = -1  # -1: nothing has to be cut
    kept: int = -1  # the first of them, which are not repeated
    counts: bool = True  # whether the round had a sample for this rank


def _batch(loader: ActiveLoader | None, mesh: Mesh) -> _Batch:
    if loader is None or loader.batch_samples is None or not loader.duplicates:
        return _Batch()
    kept = loader.batch_samples - loader.duplicates
    counts = kept > 0 or not 0 < loader.remainder <= mesh.data_share
    return _Batch(loader.batch_samples, kept, counts)


def _cut(tensor: torch.Tensor, batch: _Batch) -> torch.Tensor:
    if not batch.counts:
        return _at_least_1d(tensor)[:0]
    return tensor[: batch.kept] if tensor.ndim and len(tensor) == batch.samples else tensor


def _at_least_1d(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(1) if tensor.ndim == 0 else tensor.detach()


def _is_all_tensors(data: Any) -> bool:
    if isinstance(data, Mapping):
        return all(map(_is_all_tensors, data.values()))
    if isinstance(data, list | tuple):
        return len(data) > 0 and all(map(_is_all_tensors, data))
    return isinstance(data, torch.Tensor)


# ---- objects: lists hold samples, tuples and mappings hold such lists ----


def _is_structure(value: Any, as_objects: bool) -> bool:
    """Return whether ranks' values are joined part by part, and not one after the other."""
    if isinstance(value, Mapping) or is_namedtuple(value):
        return True
    if isinstance(value, tuple):
        return any(isinstance(part, torch.Tensor | list | tuple | Mapping) for part in value)
    # A loader's batch is a list of its columns; with as_objects a list of samples is meant.
    return isinstance(value, list) and not as_objects and any(map(is_torch_tensor, value))


def _cut_objects(value: Any, batch: _Batch, as_objects: bool) -> Any:
    if _is_structure(value, as_objects):
        parts = value.values() if isinstance(value, Mapping) else value
        cut = [_cut_objects(part, batch, as_objects) for part in parts]
        if isinstance(value, Mapping):
            return rebuilt_mapping(value, dict(zip(value, cut, strict=True)))
        return honor_type(value, cut)
    if isinstance(value, torch.Tensor):
        return _cut(value, batch)
    if not batch.counts:
        return []
    if isinstance(value, list | tuple) and len(value) == batch.samples:
        return value[: batch.kept]
    return value


def _gather_objects(data: Any, mesh: Mesh) -> list[Any]:
    if mesh.data_shares == 1:
        return [data]
    # Another rank has no use for a tensor on this one's device.
    everything = recursively_apply(lambda t: t.detach().cpu(), data)
    received = communication.all_gather_objects(everything)
    return [received[rank] for rank in mesh.first_with_each_share]


def _joined(parts: list[Any], as_objects: bool) -> Any:
    first = parts[0]
    if isinstance(first, Mapping):
        joined = {key: _joined([part[key] for part in parts], as_objects) for key in first}
        return rebuilt_mapping(first, joined)
    if _is_structure(first, as_objects):
        columns = zip(*parts, strict=True)
        return honor_type(first, (_joined(list(column), as_objects) for column in columns))
    if isinstance(first, torch.Tensor):
        tensors = [_at_least_1d(part) for part in parts]
        return [row for tensor in tensors for row in tensor] if as_objects else torch.cat(tensors)
    return concatenated(parts)


def concatenated(parts: list[Any]) -> list[Any]:
    """Return what the ranks' lists hold in one list; what is no list counts as one thing."""
    return [
        item
        for part in parts
        for item in (part if isinstance(part, list | tuple | set) else [part])
    ]
