"""Several processes of torch_xla train one model.

On its CPU device torch_xla connects no processes. Its collectives are replaced here by ones that go
through gloo; everything else is what runs on a TPU.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import os
import socket
import sys
from importlib.util import find_spec
from typing import Any

import pytest
from tpu.small_training import (
    BATCH,
    EPOCHS,
    LIMIT,
    SAMPLES,
    accelerated,
    data,
    in_fresh_processes,
    net,
    plain,
)

pytestmark = [
    pytest.mark.skipif(
        find_spec("torch_xla") is None, reason="torch_xla is not installed: make test-tpu"
    ),
    pytest.mark.timeout(420),
]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _connected(calls: list[str]) -> None:
    """Stand in for what connects the devices of a TPU; note the collectives."""
    import torch
    import torch.distributed as dist
    from torch_xla import runtime
    from torch_xla.core import xla_model

    runtime._WORLD_SIZE, runtime._ORDINAL = dist.get_world_size(), dist.get_rank()
    operations = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}

    def all_reduce(kind: str, inputs: Any, scale: float = 1.0, **_: Any) -> Any:
        calls.append(f"all_reduce of {len(inputs)}")
        for tensor in inputs:
            values = tensor.cpu()
            dist.all_reduce(values, operations[kind])
            tensor.copy_(values if scale == 1.0 else values * scale)
        return inputs

    def all_gather(value: Any, dim: int = 0, **_: Any) -> Any:
        calls.append("all_gather")
        parts = [torch.empty_like(value, device="cpu") for _ in range(dist.get_world_size())]
        dist.all_gather(parts, value.cpu())
        return torch.cat(parts, dim).to(value.device)

    def collective_broadcast(tensors: list[Any], root: int = 0, **_: Any) -> None:
        calls.append("broadcast")
        for tensor in tensors:
            values = tensor.cpu()
            dist.broadcast(values, root)
            tensor.copy_(values)

    xla_model.all_reduce, xla_model.all_gather = all_reduce, all_gather
    xla_model.collective_broadcast = collective_broadcast


def _as_one_of_two(folder: str) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    from accelnb import Accelerator, AccelnbError, PartialState
    from accelnb.utils import (
        DataLoaderConfiguration,
        broadcast,
        gather,
        pad_across_processes,
        reduce,
    )

    state = PartialState()
    rank = state.process_index
    found: dict[str, Any] = {"who": [str(state.distributed_type), state.num_processes]}
    try:
        Accelerator()
    except AccelnbError as error:
        found["unconnected"] = str(error)
    calls: list[str] = []
    _connected(calls)

    mine = torch.tensor([1.0, float("inf")]) * (rank + 1)
    on_device = mine.to(state.device)
    found["gather"] = gather(on_device).tolist()
    found["mean"] = reduce(on_device, "mean").tolist()
    found["broadcast"] = broadcast(on_device.clone(), from_process=1).tolist()
    found["pad"] = pad_across_processes(on_device[: rank + 1], dim=0).tolist()
    found["of the CPU"] = gather(mine).tolist()

    found["trained"] = {}
    for accumulation in (1, 3):
        calls.clear()
        trained = accelerated(accumulation, "no", seed=rank)
        found["trained"][accumulation] = *trained, list(calls)

    accelerator = Accelerator()
    model, loader = accelerator.prepare(net(rank), torch.utils.data.DataLoader(data(), BATCH))
    sending = Accelerator(dataloader_config=DataLoaderConfiguration(dispatch_batches=True))
    dispatched = sending.prepare(torch.utils.data.DataLoader(data(), BATCH))
    found["metrics"] = [
        sum(len(accelerator.gather_for_metrics(y)) for _, y in batches)
        for batches in (loader, dispatched, accelerator.skip_first_batches(loader, 2))
    ]
    calls.clear()
    optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=0.1))
    with accelerator.no_sync(model):  # a step of its own, as LocalSGD makes
        accelerator.backward(model(torch.ones(1, 6, device=state.device)).sum())
        optimizer.step()
    found["alone"] = list(calls)
    if rank == 0:
        accelerator.set_trigger()
    found["trigger"] = accelerator.check_trigger()
    accelerator.save_state(folder)
    accelerator.load_state(folder)
    accelerator.wait_for_everyone()
    found["saved"] = sorted(os.listdir(folder))
    accelerator.end_training()
    found["group left"] = dist.is_initialized()
    return found


def test_two_processes_train_one_model_with_one_collective_a_step(tmp_path):
    common = {"PJRT_DEVICE": "CPU", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    envs = [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    ranks = in_fresh_processes(tmp_path, _as_one_of_two, str(tmp_path / "saved"), envs=envs)

    inf = float("inf")
    for rank, found in enumerate(ranks):
        assert found["who"] == ["XLA", 2]
        assert found["unconnected"].startswith(
            "2 processes were launched, and torch_xla connects 1: "
        )
        assert found["gather"] == found["of the CPU"] == [1.0, inf, 2.0, inf]
        assert found["mean"] == [1.5, inf]
        assert found["broadcast"] == [2.0, inf]
        assert found["pad"] == [[1.0, 0.0], [2.0, inf]][rank]
        assert found["metrics"] == [SAMPLES, SAMPLES, SAMPLES - 2 * 2 * BATCH]
        assert found["alone"] == []
        assert found["trigger"] is True
        assert {"random_states_0.pkl", "random_states_1.pkl"} <= set(found["saved"])
        assert found["group left"] is False

    for accumulation in (1, 3):
        (losses, weights, calls), (other_losses, other_weights, _) = (
            found["trained"][accumulation] for found in ranks
        )
        assert weights == other_weights
        expected_losses, expected_weights = plain(2 * BATCH, accumulation, "no", even=True)
        both = [(mine + other) / 2 for mine, other in zip(losses, other_losses, strict=True)]
        assert both == pytest.approx(expected_losses, abs=2e-6)
        assert weights == pytest.approx(expected_weights, abs=2e-6)
        rounds = len(losses) // EPOCHS
        steps = EPOCHS * -(-rounds // accumulation)
        # The weights of rank 0 come first; then every step averages its 4 gradients at once.
        assert calls == ["broadcast"] * 4 + ["all_reduce of 4"] * steps


_SPAWNING = """
import sys

def main(index, folder):
    from accelnb import Accelerator, PartialState
    from accelnb.utils import gather_object

    state = PartialState()
    seen = gather_object([(state.process_index, state.local_process_index)])
    with open(f"{folder}/{index}", "w") as file:
        file.write(f"{state.process_index} of {state.num_processes}: {seen}")
    Accelerator().end_training()

if __name__ == "__main__":
    from torch_xla.distributed import xla_multiprocessing

    xla_multiprocessing.spawn(main, args=(sys.path[0],))
"""


def test_processes_of_torch_xla_s_own_launcher_find_each_other(
    tmp_path, run_script, plugin_of_two_chips
):
    path = os.pathsep.join([str(plugin_of_two_chips), *filter(None, sys.path)])
    # torch_xla's launcher fails when it has collected the results: both devices are number 0.
    run_script(
        _SPAWNING,
        timeout=LIMIT,
        PJRT_DEVICE="TWOCHIPS",
        PYTHONPATH=path,
        MASTER_PORT=str(_free_port()),
    )
    for rank in (0, 1):
        assert (tmp_path / str(rank)).read_text() == f"{rank} of 2: [(0, 0), (1, 1)]"
