"""The Accelerator on torch_xla trains as plain torch does on the CPU."""

# pyright: reportMissingImports=false
from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from ranks import on_ranks
from tpu.small_training import BATCH, LIMIT, accelerated, data, in_fresh_processes, numbers, plain

pytestmark = [
    pytest.mark.skipif(
        find_spec("torch_xla") is None, reason="torch_xla is not installed: make test-tpu"
    ),
    pytest.mark.timeout(420),
]


@pytest.fixture(autouse=True)
def _on_the_cpu_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have torch_xla compute on the CPU, and forget the Accelerators of other tests."""
    from accelnb.devices import DEVICES
    from accelnb.training.gradients import GradientState
    from accelnb.training.state import AcceleratorState

    monkeypatch.setenv("PJRT_DEVICE", "CPU")
    monkeypatch.setenv("PJRT_LOCAL_PROCESS_COUNT", "1")  # else xmp.spawn leaves it behind
    DEVICES["xla"].load()  # before anything computes gradients
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def _spawned(function: Callable[[], Any]) -> Any:
    """Return what a function returns as the one process of torch_xla's own launcher."""
    from torch_xla.distributed import xla_multiprocessing

    results: list[Any] = []
    xla_multiprocessing.spawn(lambda _: results.append(function()), nprocs=1)
    return results[0]


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize(("precision", "close"), [("no", 2e-6), ("bf16", 5e-3)])
def test_losses_and_weights_are_those_of_plain_torch(accumulation, precision, close):
    losses, weights = _spawned(lambda: accelerated(accumulation, precision))
    expected_losses, expected_weights = plain(BATCH, accumulation, precision)
    assert losses == pytest.approx(expected_losses, abs=close)
    assert weights == pytest.approx(expected_weights, abs=close)
    if precision == "bf16":
        assert losses != pytest.approx(plain(BATCH, accumulation, "no")[0], abs=1e-5)


def test_a_rank_of_a_notebook_trains_on_the_device_that_it_was_given():
    (trained,) = on_ranks(accelerated, 1, "no", procs=1, device="xla", timeout=LIMIT)
    losses, weights = plain(BATCH, 1, "no")
    assert trained[0] == pytest.approx(losses, abs=2e-6)
    assert trained[1] == pytest.approx(weights, abs=2e-6)


def test_each_step_is_one_program_that_is_compiled_once():
    from torch_xla.debug import metrics

    def counted() -> tuple[int, int]:
        names = ("ExecuteTime", "CompileTime")
        executed, compiled = (metrics.metric_data(name) for name in names)
        return (executed or (0,))[0], (compiled or (0,))[0]

    before = counted()
    losses, _ = accelerated(1, "no", batch=6)
    executed, compiled = (now - then for now, then in zip(counted(), before, strict=True))
    assert executed == len(losses)
    assert compiled <= 2  # the first step, before which there is nothing of an earlier one


@pytest.fixture
def group_of_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process group whose collectives run on the device, though there is one process."""
    import torch.distributed as dist

    from accelnb.devices import DEVICES

    monkeypatch.setenv("XLA_ALWAYS_ALLREDUCE", "1")  # else torch_xla leaves them out
    dist.init_process_group(DEVICES["xla"].backend, store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
def test_collectives_of_the_device_keep_values_of_every_kind():
    import torch

    from accelnb.training import communication

    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.int16, torch.bool):
        value = torch.tensor([[3, 0], [1, 7]]).to(dtype)
        gathered = communication.all_gather(value.to("xla"))
        assert gathered.device.type == "xla"
        assert torch.equal(gathered[0].cpu(), value)
        assert torch.equal(communication.broadcast(value.to("xla"), 0).cpu(), value)
    odd = torch.tensor([float("inf"), -0.0, float("nan"), 1e-42])
    received = communication.broadcast(odd.to("xla"), 0).cpu()
    assert torch.equal(received.view(torch.int32), odd.view(torch.int32))
    assert communication.all_gather(torch.tensor([5])).tolist() == [[5]]  # by gloo
    assert communication.all_gather_objects("text") == ["text"]


@pytest.mark.usefixtures("group_of_one")
def test_gradients_are_averaged_once_after_a_backward_pass_but_not_in_no_sync(monkeypatch):
    import torch
    import torch.distributed as dist
    from torch_xla import runtime

    from accelnb.training.parallel.xla import XlaProcesses

    monkeypatch.setattr(runtime, "_WORLD_SIZE", 2)  # the other has gradients of 0, so to say
    strategy = XlaProcesses(2)
    weight = torch.nn.Parameter(torch.ones(3, device="xla"))
    model = torch.nn.ParameterList([weight])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def backward() -> None:
        strategy.began_backward()
        (weight * torch.ones_like(weight)).sum().backward()

    backward()
    total = weight.detach().clone()
    dist.all_reduce(total)  # in one program with what follows
    strategy.average_gradients(optimizer)
    strategy.average_gradients(optimizer)
    assert weight.grad is not None
    assert weight.grad.tolist() == [0.5] * 3
    assert total.tolist() == [1.0] * 3
    backward()  # adds 1 to the average
    with strategy.no_sync(model):
        strategy.average_gradients(optimizer)
        assert weight.grad.tolist() == [1.5] * 3
    strategy.step(optimizer, None)
    assert weight.grad.tolist() == [0.75] * 3
    assert weight.tolist() == [1 - 0.5 * 0.75] * 3


def test_precisions_that_a_tpu_lacks_are_refused_in_a_line():
    from accelnb import Accelerator, AccelnbError

    for precision in ("fp16", "fp8"):
        with pytest.raises(AccelnbError) as raised:
            Accelerator(mixed_precision=precision)
        line = f"mixed_precision={precision}: xla cannot; choose one of no, bf16"
        assert str(raised.value) == line


def _too_late() -> str:
    import torch

    from accelnb import Accelerator, AccelnbError

    torch.ones(1, requires_grad=True).sum().backward()
    try:
        Accelerator()
    except AccelnbError as error:
        return str(error)
    return "made"


def test_it_is_said_in_a_line_that_torch_xla_was_imported_too_late(tmp_path):
    (said,) = in_fresh_processes(tmp_path, _too_late, envs=[{"PJRT_DEVICE": "CPU"}])
    assert said.startswith("torch computed gradients in this process before torch_xla was imported")


# ---- checkpoints ----


def _tied() -> Any:
    import torch

    torch.manual_seed(0)
    layers = [torch.nn.Linear(6, 6), torch.nn.Dropout(0.3), torch.nn.Linear(6, 6)]
    layers[2].weight = layers[0].weight
    return torch.nn.Sequential(*layers)


def _with_checkpoint(folder: str, load: str | None = None) -> dict[str, Any]:
    """Save after an epoch and go on, twice from the same place; or load what another saved."""
    import torch

    from accelnb import Accelerator
    from accelnb.utils import set_seed

    accelerator = Accelerator()
    set_seed(3)
    model = _tied()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    loader = torch.utils.data.DataLoader(data(), BATCH, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    def epoch() -> list[float]:
        losses = []
        for x, _ in loader:
            loss = torch.nn.functional.mse_loss(model(x), x)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        return [loss.item() for loss in losses]

    if load is not None:
        accelerator.load_state(load)
        state, runs = _state(model, optimizer), []
    else:
        epoch()
        state = _state(model, optimizer)
        accelerator.save_state(folder)
        runs = [epoch()]
        accelerator.load_state(folder)
        runs.append(epoch())
    return {
        "device": str(accelerator.device.type),
        "torch_xla": "torch_xla" in sys.modules,
        "state": state,
        "runs": runs,
    }


def _state(model: Any, optimizer: Any) -> list[Any]:
    states = optimizer.state_dict()["state"]
    moments = [value.cpu().tolist() for state in states.values() for value in state.values()]
    return [numbers(model), moments]


def test_a_checkpoint_goes_on_to_the_bit_and_loads_with_and_without_a_tpu(tmp_path):
    here, there = str(tmp_path / "of-xla"), str(tmp_path / "of-cpu")
    mine = _with_checkpoint(here)
    assert mine["device"] == "xla"
    assert mine["runs"][0] == mine["runs"][1]

    loading, saving = tmp_path / "loading", tmp_path / "saving"
    loading.mkdir()
    saving.mkdir()
    (loaded,) = in_fresh_processes(loading, _with_checkpoint, there, here, envs=[{}])
    assert (loaded["device"], loaded["torch_xla"]) == ("cpu", False)
    assert loaded["state"] == mine["state"]

    (theirs,) = in_fresh_processes(saving, _with_checkpoint, there, envs=[{}])
    assert _with_checkpoint(here, load=there)["state"] == theirs["state"]


def test_tied_weights_stay_tied_and_are_saved_once(tmp_path):
    from safetensors.torch import load_file

    from accelnb import Accelerator

    accelerator = Accelerator()
    model = _tied()
    weight = model[0].weight
    model = accelerator.prepare(model)
    assert model[0].weight is model[2].weight is weight  # also an optimizer's, made before
    accelerator.save_model(model, tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == {"0.weight", "0.bias", "2.bias"}


# ---- one process that has several devices ----


def _in_spmd() -> dict[str, Any]:
    import torch_xla

    torch_xla.runtime.use_spmd()
    from torch.utils.data import DataLoader
    from torch_xla.distributed.spmd import XLAShardedTensor

    from accelnb import Accelerator

    accelerator = Accelerator()
    parts = []
    for x, y in accelerator.prepare(DataLoader(data(), 8)):
        shards = XLAShardedTensor(x).local_shards
        parts.append([len(shard.unpadded_data) for shard in shards])
        assert len(accelerator.gather_for_metrics(y)) == len(x)
    losses, weights = accelerated(1, "no", batch=8)
    return {"parts": parts, "losses": losses, "weights": weights}


def test_in_spmd_each_device_gets_a_part_of_the_batch_and_losses_stay_the_same(tmp_path):
    env = {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "4"}
    (found,) = in_fresh_processes(tmp_path, _in_spmd, envs=[env])
    assert found["parts"] == [[2, 2, 2, 2]] * 5 + [[1, 1, 0, 0]]  # 42 samples in batches of 8
    expected_losses, expected_weights = plain(8, 1, "no")
    assert found["losses"] == pytest.approx(expected_losses, abs=1e-5)
    assert found["weights"] == pytest.approx(expected_weights, abs=1e-5)
