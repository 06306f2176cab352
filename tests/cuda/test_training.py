"""Training on CUDA: the CPU's numbers, every precision, checkpoints that load anywhere."""

from __future__ import annotations

import pytest
import torch
from ranks import on_ranks

CUDA = {"procs": 2, "device": "cuda"}


def train(steps: int = 6) -> list[float]:
    """Train a small model with DDP from fixed numbers; return the loss of all ranks' batches."""
    from accelnb import Accelerator

    accelerator = Accelerator()
    torch.manual_seed(0)
    inputs, targets = torch.randn(32, 8), torch.randn(32, 4)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, targets), 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model, optimizer, data = accelerator.prepare(model, optimizer, data)
    losses = []
    while len(losses) < steps:
        for x, y in data:
            loss = torch.nn.functional.mse_loss(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(accelerator.reduce(loss.detach(), "mean").item())
    return losses[:steps]


def test_ddp_on_cuda_trains_as_on_the_cpu():
    on_cuda, on_cpu = on_ranks(train, **CUDA), on_ranks(train, procs=2, device="cpu")
    assert on_cuda[0] == on_cuda[1]
    assert on_cuda[0] == pytest.approx(on_cpu[0], abs=1e-4)


def gathered() -> list[object]:
    from accelnb import Accelerator

    accelerator = Accelerator()
    mine = torch.full((2,), float(accelerator.process_index), device=accelerator.device)
    padded = torch.ones(accelerator.process_index + 1, device=accelerator.device)
    return [
        accelerator.gather(mine).tolist(),
        accelerator.reduce(mine, "sum").tolist(),
        accelerator.pad_across_processes(padded).tolist(),
    ]


def test_collectives_of_the_accelerator_give_the_same_on_cuda():
    assert on_ranks(gathered, **CUDA) == on_ranks(gathered, procs=2, device="cpu")


def computes_in(precision: str) -> tuple[str, str, str]:
    from accelnb import Accelerator

    accelerator = Accelerator(mixed_precision=precision)
    inner, seen = torch.nn.Linear(8, 8), []
    inner.register_forward_hook(lambda *args: seen.append(str(args[2].dtype)))
    model, optimizer = accelerator.prepare(
        torch.nn.Sequential(inner), torch.optim.SGD(inner.parameters(), lr=0.1)
    )
    out = model(torch.ones(2, 8, device=accelerator.device))
    accelerator.backward(out.sum())
    optimizer.step()
    return seen[0], str(out.dtype), str(inner.weight.dtype)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16")])
@pytest.mark.parametrize("outputs", ["fp32", "compute"])
def test_mixed_precision_computes_in_it_and_returns_fp32_unless_told(precision, dtype, outputs):
    returned = "float32" if outputs == "fp32" else dtype
    expected = (f"torch.{dtype}", f"torch.{returned}", "torch.float32")
    assert on_ranks(computes_in, precision, outputs=outputs, **CUDA) == [expected] * 2


def overflows() -> tuple[bool, bool, bool, bool, float]:
    from accelnb import Accelerator

    accelerator = Accelerator(mixed_precision="fp16")
    model = torch.nn.Linear(4, 4)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    weight = next(iter(model.parameters()))
    x = torch.ones(2, 4, device=accelerator.device)
    scaler = accelerator.scaler
    assert scaler is not None
    start, scale = weight.detach().clone(), scaler.get_scale()
    told = []
    for factor in (float("inf"), 1.0):
        accelerator.backward(model(x).mean() * factor)
        optimizer.step()
        optimizer.zero_grad()
        told += [accelerator.optimizer_step_was_skipped, bool((weight == start).all())]
    return (*told, scaler.get_scale() / scale)  # pyright: ignore


def test_fp16_leaves_out_a_step_that_overflows_and_lowers_the_scale():
    assert on_ranks(overflows, **CUDA) == [(True, True, False, False, 0.5)] * 2


def matmul_error(precision: str) -> float:
    torch.set_float32_matmul_precision(precision)
    torch.manual_seed(0)
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    exact = a.double() @ b.double()
    return ((a.cuda() @ b.cuda()).cpu().double() - exact).abs().max().item()


def test_tf32_is_used_where_the_cell_asks_for_it():
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    (exact,) = on_ranks(matmul_error, "highest", procs=1, device="cuda")
    (fast,) = on_ranks(matmul_error, "high", procs=1, device="cuda")
    assert exact < 1e-3
    assert fast > 5 * exact


def trains_in_fp8() -> tuple[list[str], list[float]]:
    from accelnb import Accelerator

    accelerator = Accelerator(mixed_precision="fp8")
    torch.manual_seed(0)
    layers = [torch.nn.Linear(64, 64) for _ in range(4)]
    model = torch.nn.Sequential(*layers)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.05))
    x, y = torch.randn(2, 32, 64, device=accelerator.device)
    losses = []
    for _ in range(20):
        loss = torch.nn.functional.mse_loss(model(x), y)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return [type(m).__name__ for m in accelerator.unwrap_model(model)], losses


def test_fp8_trains_with_torchao_on_gpus_that_have_it():
    pytest.importorskip("torchao")
    if (version := torch.cuda.get_device_capability()) < (8, 9):
        pytest.skip(f"fp8 needs compute capability 8.9, this GPU has {version[0]}.{version[1]}")
    kinds, losses = on_ranks(trains_in_fp8, procs=1, device="cuda")[0]
    assert kinds == ["Linear", "Float8Linear", "Float8Linear", "Linear"]
    assert losses[-1] < losses[0]


def trained_and_saved(folder: str) -> list[float]:
    from accelnb import Accelerator

    accelerator = Accelerator()
    torch.manual_seed(1)
    model = torch.nn.Linear(4, 2)
    model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters()))
    accelerator.backward(model(torch.ones(2, 4, device=accelerator.device)).sum())
    optimizer.step()
    accelerator.save_state(folder)
    return [p.sum().item() for p in model.parameters()]


def loaded(folder: str) -> tuple[list[float], set[str]]:
    from accelnb import Accelerator

    accelerator = Accelerator()
    model = torch.nn.Linear(4, 2)
    model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters()))
    accelerator.load_state(folder)
    states = [t for state in optimizer.state.values() for t in state.values()]
    devices = {t.device.type for t in (*model.parameters(), *states) if t.dim()}
    return [p.sum().item() for p in model.parameters()], devices


@pytest.mark.parametrize(("first", "then"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_checkpoint_of_one_device_loads_on_the_other(tmp_path, first, then):
    folder = str(tmp_path / "checkpoint")
    saved = on_ranks(trained_and_saved, folder, procs=2, device=first)
    for values, devices in on_ranks(loaded, folder, procs=2, device=then):
        assert values == pytest.approx(saved[0], rel=1e-5)
        assert devices == {then}
