"""Data, metrics, seeds and parts of work where ranks share samples: each counts once."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from accelnb import Accelerator
from accelnb.errors import AccelnbError
from accelnb.training.local_sgd import LocalSGD
from accelnb.utils import (
    DataLoaderConfiguration,
    find_executable_batch_size,
    gather,
    gather_object,
    reduce,
    set_seed,
)

MESHES = ("dp_replicate=2,tp=2", "dp_shard=2,tp=2", "dp_replicate=2,cp=2")
SIZE = 22  # three rounds of two batches of 4, the last of them short


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(SIZE))


def _batches(iterable: bool, dispatch: bool, even: bool, shuffle: bool) -> Any:
    accelerator = Accelerator(
        dataloader_config=DataLoaderConfiguration(dispatch_batches=dispatch, even_batches=even)
    )
    torch.manual_seed(accelerator.process_index)  # no order comes from here
    data: Any = Stream() if iterable else range(SIZE)
    loader = accelerator.prepare(DataLoader(data, 4, shuffle=None if iterable else shuffle))
    mine, gathered, objects = [], [], []
    for batch in loader:
        mine.append(batch.tolist())
        if even or dispatch or iterable:  # else ranks have different numbers of batches
            gathered += accelerator.gather_for_metrics(batch).tolist()
            objects += accelerator.gather_for_metrics(batch.tolist(), use_gather_object=True)
    return mine, gathered, objects, accelerator.mesh.data_share


def _every_loader() -> Any:
    found = {}
    for iterable, dispatch in ((False, False), (False, True), (True, False), (True, True)):
        for even in (True, False):
            for shuffle in (False, True) if not iterable else (False,):
                case = (iterable, dispatch, even, shuffle)
                found[case] = _batches(*case)
    return found


@pytest.mark.parametrize("mesh", MESHES)
def test_ranks_of_one_share_get_the_same_batches_and_each_sample_is_gathered_once(mesh):
    ranks = on_ranks(_every_loader, procs=4, mesh=mesh)
    for case, (first, gathered, objects, _) in ranks[0].items():
        by_share = [[found[case][0] for found in ranks if found[case][3] == s] for s in (0, 1)]
        for one, other in by_share:
            assert one, case
            assert one == other, case
        assert by_share[0][0] != by_share[1][0], case
        assert first == by_share[0][0]
        for found in ranks:
            assert found[case][1:3] == (gathered, objects), case
        if gathered:
            assert sorted(gathered) == sorted(objects) == list(range(SIZE)), case
        else:
            seen = [x for (batches, _) in by_share for batch in batches for x in batch]
            assert sorted(seen) == list(range(SIZE)), case


def _values() -> dict[str, Any]:
    accelerator = Accelerator()
    share = accelerator.mesh.data_share
    one = torch.tensor([share + 1.0])  # equal on ranks that compute the same
    with accelerator.split_between_processes(list("abcde")) as mine:
        part = mine
    with accelerator.split_between_processes(list("abcde"), apply_padding=True) as mine:
        padded = mine
    set_seed(7, device_specific=True)
    drawn = nn.functional.dropout(torch.ones(64)).tolist()
    set_seed(7)
    same = torch.rand(1).item()
    whole = torch.tensor([3])
    return {
        "share": share,
        "sum": accelerator.reduce(one, "sum").item(),
        "mean": accelerator.reduce(one, "mean").item(),
        "max": accelerator.reduce(one, "max").item(),
        "count": accelerator.reduce(whole, "sum", scale=2.0).item(),
        "of all": reduce(one, "sum").item(),
        "gathered": gather(one).tolist(),
        "objects": gather_object([share]),
        "part": part,
        "padded": padded,
        "dropout": drawn,
        "same": same,
        "one": one.item(),
    }


@pytest.mark.parametrize("mesh", MESHES)
def test_what_ranks_compute_alike_counts_once_and_work_and_seeds_follow_the_data(mesh):
    ranks = on_ranks(_values, procs=4, mesh=mesh)
    by_share: dict[int, list[dict]] = {0: [], 1: []}
    for found in ranks:
        by_share[found["share"]].append(found)
    copies = 2 if "cp" in mesh else 1  # along cp each rank has results of its own
    for found in ranks:
        assert (found["sum"], found["mean"], found["max"]) == (3.0 * copies, 1.5, 2.0)
        assert found["count"] == 12.0 * copies
        assert found["of all"] == 6.0
        assert len(found["gathered"]) == len(found["objects"]) == 4
        assert found["same"] == ranks[0]["same"]
    for name in ("part", "padded", "dropout"):
        for one, other in by_share.values():
            assert one[name] == other[name], name
    first, second = by_share[0][0], by_share[1][0]
    assert (first["part"], second["part"]) == (list("abc"), list("de"))
    assert second["padded"] == list("dee")
    assert first["dropout"] != second["dropout"]


def _life_of_a_sharded_model() -> dict[str, Any]:
    accelerator = Accelerator()
    said = {}

    def prepared() -> Any:
        model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        return accelerator.prepare(model, torch.optim.AdamW(model.parameters()))

    model, optimizer = prepared()
    with pytest.raises(AccelnbError) as refused:
        LocalSGD(accelerator, model, 2)
    said["LocalSGD"] = str(refused.value)
    with pytest.raises(AccelnbError) as refused, accelerator.join_uneven_inputs([model], False):
        pass
    said["join"] = str(refused.value)
    said["unwrapped"] = accelerator.unwrap_model(model) is model
    accelerator.backward(model(torch.ones(2, 8)).sum())
    optimizer.step()
    del refused  # its traceback has the model
    alive = [weakref.ref(model), *(weakref.ref(p) for p in model.parameters())]
    model, optimizer = accelerator.free_memory(model, optimizer)
    gc.collect()
    said["alive"] = sum(one() is not None for one in alive)

    sizes = []

    @find_executable_batch_size(starting_batch_size=8)
    def train(size: int) -> int:
        accelerator.free_memory()
        sizes.append(size)
        model, optimizer = prepared()

        def run_out(grad: Any) -> None:
            if size > 6:
                raise torch.OutOfMemoryError("CUDA out of memory")

        hidden = model(torch.ones(size, 8))
        hidden.register_hook(run_out)
        accelerator.backward(hidden.sum())
        optimizer.step()
        return size

    said["found"], said["sizes"] = train(), sizes
    return said


def test_a_sharded_model_is_freed_refused_and_searched_for():
    for said in on_ranks(_life_of_a_sharded_model, procs=2, strategy="fsdp"):
        assert said["LocalSGD"].startswith("LocalSGD: this model is sharded")
        assert said["join"].startswith("join_uneven_inputs: ")
        assert said["unwrapped"]
        assert said["alive"] == 0
        assert (said["found"], said["sizes"]) == (6, [8, 7, 6])


def _joined_under_none() -> str:
    from torch.distributed.fsdp import fully_shard

    accelerator = Accelerator()
    with (
        pytest.raises(AccelnbError) as refused,
        accelerator.join_uneven_inputs([fully_shard(nn.Linear(2, 2))], even_batches=False),
    ):
        pass
    return str(refused.value)


def test_a_model_that_the_user_sharded_cannot_have_uneven_inputs():
    for said in on_ranks(_joined_under_none, strategy="none"):
        assert "every process takes part in every pass of a sharded model" in said
