"""The sizes of a mesh as Accelerate's dataclass has them, and what a launch makes of them."""

from __future__ import annotations

import pytest
import torch

from accelnb import Accelerator, AccelnbError, ParallelismConfig
from accelnb.options.mesh import filled, read_mesh, why_not_strategy
from accelnb.training.parallel.mesh import Mesh
from accelnb.utils import TorchContextParallelConfig, TorchTensorParallelConfig

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("sizes", "mesh"),
    [
        ((8, 1, 1, 1), {"dp_replicate": 8}),
        ((1, 8, 1, 1), {"dp_shard": 8}),
        ((2, 4, 1, 1), {"dp_replicate": 2, "dp_shard": 4}),
        ((1, 4, 2, 1), {"dp_shard": 4, "tp": 2}),
        ((2, 2, 2, 1), {"dp_replicate": 2, "dp_shard": 2, "tp": 2}),
        ((1, 1, 8, 1), {"tp": 8}),
        ((1, 1, 1, 4), {"cp": 4}),
        ((1, 4, 1, 2), {"dp_shard": 4, "cp": 2}),
        ((2, 2, 2, 2), {"dp_replicate": 2, "dp_shard": 2, "cp": 2, "tp": 2}),
    ],
)
def test_the_dimensions_are_those_of_accelerate_in_its_order(sizes, mesh, monkeypatch):
    names = ("dp_replicate", "dp_shard", "tp", "cp")
    given = dict(zip((f"{name}_size" for name in names), sizes, strict=True))
    config = ParallelismConfig(**given)
    assert dict(config.dimensions) == mesh
    assert config.total_size == torch.tensor(sizes).prod()
    assert config.data_parallel_size == sizes[0] * sizes[1]
    assert set(config.active_mesh_dims) == set(mesh)
    for name, size in given.items():
        monkeypatch.setenv(f"PARALLELISM_CONFIG_{name.upper()}", str(size))
    assert ParallelismConfig() == config
    monkeypatch.setenv("PARALLELISM_CONFIG_TP_SIZE", "-1")
    assert ParallelismConfig().tp_size == -1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tp_size": 0}, "tp_size=0: must be at least 1"),
        ({"cp_size": 2, "sp_size": 2}, "leave the other at 1"),
        ({"cp_backend": "ring"}, "choose torch"),
        ({"tp_handler": TorchTensorParallelConfig()}, "no effect with tp_size=1"),
        ({"tp_size": 2, "tp_handler": TorchContextParallelConfig()}, "must be a TorchTensor"),
    ],
)
def test_sizes_that_cannot_be_are_refused_in_one_line(given, said):
    with pytest.raises(AccelnbError, match=said):
        ParallelismConfig(**given)


def test_handlers_come_with_their_dimension_and_are_written_as_dictionaries(monkeypatch):
    monkeypatch.setenv("PARALLELISM_CONFIG_CP_COMM_STRATEGY", "alltoall")
    config = ParallelismConfig(cp_size=2)
    assert config.cp_handler is not None
    assert config.tp_handler is None
    assert config.to_json()["cp_handler"] == {"cp_comm_strategy": "alltoall"}
    with pytest.raises(AccelnbError, match="cp_comm_strategy=ring: choose one of allgather"):
        TorchContextParallelConfig("ring")
    with pytest.raises(AccelnbError, match="enable_async_tp"):
        TorchTensorParallelConfig(enable_async_tp=True)


def test_what_is_left_fills_the_mesh():
    assert filled(read_mesh("dp_shard=-1,tp=2"), processes=6) == (("dp_shard", 3), ("tp", 2))
    with pytest.raises(AccelnbError, match="3 ranks cannot be divided by 2"):
        filled(read_mesh("dp_shard=-1,tp=2"), processes=3)
    for text in ("dp_shard=-1,tp=-1", "tp=0", "tp=-2", "tp=2,tp=2", "rows=2"):
        with pytest.raises(ValueError, match=r"dimension, or one twice|size must"):
            read_mesh(text)


@pytest.mark.parametrize(
    ("strategy", "mesh", "reason"),
    [
        ("fsdp", "dp_shard=2,tp=2", None),
        ("fsdp", "cp=2", None),
        ("fsdp", "tp=2", "has no dp_shard"),
        ("hsdp", "dp_replicate=2,dp_shard=-1", None),
        ("hsdp", "dp_shard=4", "lacks dp_replicate"),
        ("hsdp", "none", "say how large its groups are"),
        ("ddp", "pp=2", "no pipelines"),
        ("none", "pp=2", None),
    ],
)
def test_a_strategy_that_has_nothing_to_do_on_a_mesh_is_refused(strategy, mesh, reason):
    said = why_not_strategy(strategy, read_mesh(mesh), nodes=1)
    assert said is None if reason is None else said is not None and reason in said


def test_processes_that_share_a_model_share_its_data():
    def places(rank: int) -> tuple[int, int, int]:
        sizes = {"dp_replicate": 2, "dp_shard": 2, "tp": 2}
        mesh = Mesh(CPU, sizes, tuple(range(8)), rank)
        assert mesh.data_shares == 4
        return mesh.data_share, mesh.place_along("dp_replicate", "dp_shard"), mesh.place_along("tp")

    assert [places(rank) for rank in range(8)] == [(r // 2, r // 2, r % 2) for r in range(8)]


def test_one_process_is_a_mesh_of_size_one():
    accelerator = Accelerator(parallelism_config=ParallelismConfig(dp_shard_size=-1))
    assert accelerator.mesh.size == 1
    assert accelerator.parallelism_config is not None
    assert accelerator.parallelism_config.dp_shard_size == 1
    assert not accelerator.is_fsdp2
    assert accelerator.should_save_model
    assert accelerator.tensor_parallel_rank == accelerator.data_parallel_rank == 0
    with pytest.raises(AccelnbError, match="the mesh tp=2 has 2 places for 1 rank"):
        Accelerator(parallelism_config=ParallelismConfig(tp_size=2))
