"""When memory runs out, the error says which of the cell's names hold how much."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import torch
from torch import nn

from accelnb.engine.failure import RankError
from accelnb.engine.group import WorkerGroup
from accelnb.engine.run import Run
from accelnb.options.config import LaunchConfig
from accelnb.training.optimizer import AcceleratedOptimizer
from accelnb.worker.device_memory import Holder, holders
from accelnb.worker.out_of_memory import variables_of

CPU = torch.device("cpu")
MIB = 1 << 20


def found(**variables) -> dict[str, Holder]:
    return {holder.name: holder for holder in holders(variables, CPU)}


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(512, 512, bias=False), nn.BatchNorm1d(512, affine=False))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 512)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_a_model_and_its_optimizer_are_told_apart_to_the_byte():
    model, optimizer = trained()
    held = found(optimizer=optimizer, model=model)
    assert held["model"].sizes == {
        "parameters": MIB, "gradients": MIB, "buffers": 2 * 512 * 4 + 8,
    }  # fmt: skip
    assert held["optimizer"].sizes == {"states": 2 * MIB + 4}  # exp_avg, exp_avg_sq, step
    assert str(held["model"]).startswith("model: ")
    assert "gradients 1.00 MiB" in str(held["model"])


def test_wrapped_models_and_optimizers_hold_what_they_wrap():
    model, optimizer = trained()
    wrapper = nn.Module()
    wrapper.module = model  # as DistributedDataParallel has it
    held = found(wrapper=wrapper, model=model, optimizer=AcceleratedOptimizer(optimizer))
    assert sum(holder.sizes.get("parameters", 0) for holder in held.values()) == MIB
    assert held["optimizer"].sizes == {"states": 2 * MIB + 4}
    in_a_dict = found(state={"model": model, "optimizer": optimizer})["state"]
    assert in_a_dict.sizes["parameters"] == MIB
    assert in_a_dict.sizes["states"] == 2 * MIB + 4


def test_memory_that_several_names_share_counts_once():
    base = torch.zeros(1024, 256)
    held = found(view=base[:10], rows=[base, base.T, base[5]], array=base.numpy())
    assert {name: holder.size for name, holder in held.items()} == {"rows": MIB}
    array = np.zeros((1024, 128))
    assert [h.size for h in holders({"a": array, "b": array[3:], "c": array.T}, CPU)] == [MIB]


def test_containers_are_searched_however_they_are_nested():
    def tensor() -> torch.Tensor:
        return torch.zeros(MIB // 4)

    class Kept:
        def __init__(self) -> None:
            self.deep = {"a": [(tensor(),)], "again": self}

    queue = collections.deque([tensor(), {"x": tensor()}])
    held = found(kept=Kept(), queue=queue, text="x" * MIB, module=np)
    assert [str(held[name]) for name in ("queue", "kept")] == [
        "queue: deque of 2 tensors 2.00 MiB", "kept: Kept 1.00 MiB",
    ]  # fmt: skip
    assert len(held) == 2


def test_objects_that_cannot_be_looked_at_are_left_out():
    class Odd:
        def __getattribute__(self, name):
            raise ValueError("no")

    held = found(odd=[Odd(), torch.ones(4)], sparse=torch.eye(3).to_sparse(), meta=_meta())
    assert {name: holder.size for name, holder in held.items()} == {"odd": 16}


def _meta() -> torch.Tensor:
    return torch.empty(1 << 40, device="meta")


def test_a_huge_container_does_not_hide_the_others_or_take_long():
    held = found(numbers=[[i] for i in range(30_000)], tensor=torch.zeros(MIB // 4))
    assert held["tensor"].size == MIB


def test_variables_of_the_functions_of_a_cell_are_named_with_the_function():
    def train() -> None:
        batch = torch.ones(4)
        raise MemoryError(len(batch))

    with pytest.raises(MemoryError) as raised:
        train()
    here = variables_of({"x": 1, "_hidden": 2}, raised.value, lambda file: "Cell In[1]")
    assert here["x"] == 1
    assert here["batch in train()"].tolist() == [1.0] * 4
    assert "_hidden" not in here


def test_a_rank_that_runs_out_says_who_holds_what_and_lets_go_of_the_failed_function():
    group = WorkerGroup(LaunchConfig(procs=1, device="cpu", start="fork"))
    try:
        said = failure(on(group, RUNS_OUT)).splitlines()
        assert said[0].startswith("rank 0: RuntimeError: ")
        asked = said.index("128.00 TiB were asked for on cpu, where memory is held by")
        assert said[asked + 1 : asked + 3] == [
            "  big in train(): tensor 64.00 MiB", "  cache: list of 3 tensors 3.00 MiB",
        ]  # fmt: skip
        assert said[asked + 3].startswith("  this process in all: ")
        assert "del cache, or accelnb.utils.find_executable_batch_size" in said[-1]
        assert said[0].endswith("(Cell In[1], line 7)")
        assert on(group, "freed() is None, len(cache)").result[0] == (True, 3)
        usual = failure(on(group, "raise RuntimeError('no luck')"))
        assert usual == "rank 0: RuntimeError: no luck (Cell In[1], line 1)"
    finally:
        group.shutdown()


RUNS_OUT = """import torch, weakref
cache = [torch.zeros(1 << 18) for _ in range(3)]
def train():
    global freed
    big = torch.zeros(1 << 24)
    freed = weakref.ref(big)
    torch.ones(1 << 45)
train()"""


def on(group: WorkerGroup, code: str) -> Run:
    """Run a cell on a group and return its run, which is over."""
    cell = {"code": code, "source": code, "name": "<cell>", "number": 1}
    run = group.run("execute_request", {0: ({"cell": cell, "result": True}, [])})
    assert run.wait(60)
    return run


def failure(run: Run) -> str:
    with pytest.raises(RankError) as raised:
        run.raise_if_failed()
    return str(raised.value)
