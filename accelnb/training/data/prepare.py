"""Make a loader give each rank its part, or leave out its first batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from accelnb.errors import AccelnbError
from accelnb.training.data.batch_iterator import kept_arguments
from accelnb.training.data.prepared_loader import PreparedLoader
from accelnb.training.data.samplers import SkipBatchSampler, batch_sampler_of
from accelnb.training.data.sharded_loader import SkipDataLoader
from accelnb.training.data.sharding import Division
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.state import PartialState


def prepare_data_loader(
    dataloader: DataLoader[Any],
    device: torch.device | None = None,
    num_processes: int | None = None,
    process_index: int | None = None,
    split_batches: bool = False,
    put_on_device: bool = False,
    rng_types: list[Any] | None = None,
    dispatch_batches: bool | None = None,
    even_batches: bool = True,
    slice_fn_for_dispatch: Callable[..., Any] | None = None,
    use_seedable_sampler: bool = False,
    data_seed: int | None = None,
    non_blocking: bool = False,
    use_stateful_dataloader: bool = False,
    torch_device_mesh: Any = None,
    mesh: Mesh | None = None,
) -> PreparedLoader:
    """Return a loader of this rank's part of the data.

    With one process it gives the same batches as `dataloader`, drawn in the same order. With
    several, a random sampler gets a generator that is equal on all ranks, if it has none.
    `dataloader` itself stays as it is, unless its sampler is of a class of its own with an empty
    `generator`.

    Parameters
    ----------
    device
        Where batches are moved, if `put_on_device` is set.
    num_processes, process_index
        By default those of `PartialState`.
    split_batches
        A batch of the loader is divided among the ranks. Otherwise each gets whole ones.
    rng_types
        Generators that get rank 0's state at the begin of each epoch: ``torch``, ``cuda``,
        ``xpu``, ``xla``, and ``generator`` for the sampler's or the iterable dataset's.
    dispatch_batches
        Rank 0 loads all data and sends each rank its part. By default for iterable datasets that
        are put on a device, but those that have as many shards as there are ranks.
    even_batches
        Repeat samples from the beginning, so that all ranks get as many batches of one size.
    slice_fn_for_dispatch
        Cuts a rank's part out of a batch, see `DataLoaderDispatcher`.
    use_seedable_sampler, data_seed
        Shuffle by a seed and the epoch's number alone; see `SeedableRandomSampler`.
    non_blocking
        Do not wait for copies to the device.
    use_stateful_dataloader
        After `load_state_dict`, go on in the epoch behind what was handed out.
    torch_device_mesh
        Ranks that differ only in ``tp``, ``cp``, ``sp`` or ``pp`` get the same batches.
    mesh
        An Accelerator's, instead.

    Raises
    ------
    AccelnbError
        The data cannot be divided as asked for: batches of no or no divisible size are to be
        split, single samples are not in batches, data is to be sent but not put on a device, or
        torchdata is missing.

    Examples
    --------
    >>> from torch.utils.data import DataLoader
    >>> from accelnb.training.data.prepare import prepare_data_loader
    >>> plain = DataLoader(range(8), batch_size=2)
    >>> loader = prepare_data_loader(plain, num_processes=2, process_index=1)
    >>> [batch.tolist() for batch in loader]
    [[2, 3], [6, 7]]
    """
    if isinstance(dataloader, PreparedLoader):
        return dataloader
    if mesh is None:
        mesh = _mesh_of(torch_device_mesh, num_processes, process_index)
    division = Division(mesh, split_batches, even_batches, use_seedable_sampler, data_seed)
    division.check(dataloader)
    if dispatch_batches and not put_on_device:
        raise AccelnbError("dispatch_batches=True: it needs put_on_device=True")
    iterable = isinstance(dataloader.dataset, IterableDataset)
    if dispatch_batches is None:
        own_shards = division.takes_own_shard(dataloader.dataset)
        dispatch_batches = put_on_device and iterable and not own_shards
    given = kept_arguments(dataloader) | {
        "collate_fn": dataloader.collate_fn,
        "device": device if put_on_device else None,
        "use_stateful_dataloader": use_stateful_dataloader,
        "_non_blocking": non_blocking,
        "_drop_last": dataloader.drop_last,
    }
    if division.num_processes > 1 and "in_order" in given:
        given["in_order"] = True  # the ranks' batches of a round belong together
    if dispatch_batches and division.num_processes > 1:
        return division.dispatcher(dataloader, given, slice_fn_for_dispatch)
    given["rng_types"] = rng_types
    if iterable:
        return division.of_samples(dataloader, given)
    return division.of_indices(dataloader, given)


def _mesh_of(torch_mesh: Any, num_processes: int | None, process_index: int | None) -> Mesh:
    state = PartialState()
    if torch_mesh is not None:
        return Mesh.of_torch(torch_mesh, state.device, state.process_index)
    size = state.num_processes if num_processes is None else num_processes
    index = state.process_index if process_index is None else process_index
    if not 0 <= index < size:
        raise AccelnbError(f"process_index={index}: must be from 0 to {size - 1}")
    return Mesh.of_copies(state.device, size, index)


def undivided(loader: PreparedLoader) -> DataLoader[Any]:
    """Return a plain loader of what `loader`, prepared for one process, loads."""
    given: dict[str, Any] = kept_arguments(loader) | {"collate_fn": loader.collate_fn}
    if loader.is_iterable:
        given |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
    elif loader.batch_sampler is not None:
        given["batch_sampler"] = loader.batch_sampler
    else:
        given |= {"batch_size": None, "sampler": loader.sampler}
    return DataLoader(loader.dataset, **given)


def skip_first_batches(dataloader: DataLoader[Any], num_batches: int = 0) -> Any:
    """Return a loader without the first batches of an epoch, as to resume in it.

    Data of map-style datasets that is left out is not loaded. What comes of a prepared loader
    shares its place: when the rest of the epoch is done, `dataloader` goes on with the next.

    Examples
    --------
    >>> from torch.utils.data import DataLoader
    >>> from accelnb.training.data.prepare import skip_first_batches
    >>> [batch.tolist() for batch in skip_first_batches(DataLoader(range(6), batch_size=2), 2)]
    [[4, 5]]
    """
    if isinstance(dataloader, PreparedLoader):
        return dataloader.without_first(num_batches)
    given: dict[str, Any] = kept_arguments(dataloader)
    given["collate_fn"] = dataloader.collate_fn
    if isinstance(dataloader.dataset, IterableDataset):
        sizes: dict[str, Any] = {"batch_size": dataloader.batch_size}
        sizes["drop_last"] = dataloader.drop_last
        return SkipDataLoader(dataloader.dataset, num_batches, **given, **sizes)
    if dataloader.batch_sampler is not None:
        batches: Any = SkipBatchSampler(dataloader.batch_sampler, num_batches)
        return DataLoader(dataloader.dataset, batch_sampler=batches, **given)
    indices: Any = SkipBatchSampler(dataloader.sampler, num_batches)
    return DataLoader(dataloader.dataset, batch_size=None, sampler=indices, **given)


def get_sampler(dataloader: DataLoader[Any]) -> Any:
    """Return what gives a loader single indices, None if it has only batches of them."""
    return getattr(batch_sampler_of(dataloader), "sampler", None)
