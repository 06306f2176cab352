"""What each rank does in a self-test. A check returns what to say of it, or raises."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from IPython.core.getipython import get_ipython
from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.accelerator import Accelerator

_MIB = 1 << 20
_SIZES = (1, 16, 64)  # MiB that are reduced
_REPEATS = 3
_UPDATES = 8  # of the optimizer
_BATCH, _WIDTH = 32, 64


def process_group() -> str:
    """Check that all ranks are there, each once."""
    dist.barrier()
    start = time.perf_counter()
    dist.barrier()
    took = time.perf_counter() - start
    ranks = [int(rank) for rank in _gathered(torch.tensor([dist.get_rank()]))]
    _expect("the ranks that answered", ranks, list(range(dist.get_world_size())))
    return f"{dist.get_backend()}, a barrier takes {took * 1e3:.1f} ms"


def all_reduce() -> str:
    """Check sums and maxima against those known before."""
    rank, size = dist.get_rank(), dist.get_world_size()
    for dtype in (torch.float32, torch.int64):
        value = torch.arange(1000, device=_device(), dtype=dtype) * (rank + 1)
        dist.all_reduce(value)
        known = torch.arange(1000, device=_device(), dtype=dtype) * (size * (size + 1) // 2)
        _expect(f"the sum of {dtype}", value.tolist(), known.tolist())
    value = torch.tensor(float(rank), device=_device())
    dist.all_reduce(value, dist.ReduceOp.MAX)
    _expect("the maximum", value.item(), float(size - 1))
    return f"sums over {size} rank{'s' * (size > 1)} are right"


def broadcast_and_gather() -> str:
    """Check that values arrive as they were sent."""
    rank, size = dist.get_rank(), dist.get_world_size()
    for source in {0, size - 1}:
        value = torch.full((1000,), rank, device=_device())
        dist.broadcast(value, source)
        _expect(f"what rank {source} broadcast", value.unique().tolist(), [source])
    _expect(
        "what was gathered", _gathered(torch.tensor([10 * rank])), list(range(0, 10 * size, 10))
    )
    return "values arrive as they were sent"


def bandwidth() -> str:
    """Measure all_reduce of tensors of several sizes."""
    if dist.get_world_size() == 1:
        return "one rank has nobody to send to"
    measured = []
    for size in _SIZES:
        value = torch.ones(size * _MIB // 4, device=_device())
        took = min(_timed(lambda value=value: dist.all_reduce(value)) for _ in range(_REPEATS))
        measured.append(f"{size} MiB {size * _MIB / took / 1e9:.2f} GB/s")
    return ", ".join(measured)


def mesh() -> str:
    """Check that each dimension of the cell's mesh joins the ranks that it should."""
    shell = get_ipython()
    assert shell is not None
    mesh = shell.user_ns["mesh"]
    for at, name in enumerate(mesh.mesh_dim_names):
        group = mesh.get_group(name)
        value = torch.tensor([dist.get_rank()], device=_device())
        dist.all_reduce(value, group=group)
        _expect(f"the sum over {name}", value.item(), sum(dist.get_process_group_ranks(group)))
        _expect(f"the size of {name}", dist.get_world_size(group), mesh.size(at))
    sizes = ", ".join(f"{name} of {mesh.size(at)}" for at, name in enumerate(mesh.mesh_dim_names))
    return f"{sizes}: sums over each dimension are right"


def training() -> str:
    """Train a small model, each rank on its own data, and compare the weights."""
    torch.manual_seed(0)
    accelerator = Accelerator()
    model = nn.Sequential(
        nn.Linear(_WIDTH, _WIDTH),
        nn.GELU(),
        nn.Linear(_WIDTH, _WIDTH),
        nn.GELU(),
        nn.Linear(_WIDTH, 1),
    )
    before = _weights(model).clone()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.05))
    several = dist.get_world_size() > 1
    averaged = isinstance(model, nn.parallel.DistributedDataParallel)
    torch.manual_seed(accelerator.process_index)
    inputs = torch.randn(_BATCH, _WIDTH, device=accelerator.device)
    targets = inputs.sum(1, keepdim=True) / _WIDTH**0.5

    def step() -> None:
        for _ in range(accelerator.gradient_accumulation_steps):
            with accelerator.accumulate(model):
                loss = nn.functional.mse_loss(model(inputs).float(), targets)
                accelerator.backward(loss)
                if several and not averaged and accelerator.sync_gradients:
                    _average_gradients(model)
                optimizer.step()
                optimizer.zero_grad()
        losses.append(loss.item())

    losses: list[float] = []
    times = sorted(_timed(step) for _ in range(_UPDATES))
    weights = _weights(model)
    if not torch.isfinite(weights).all() or torch.equal(weights.cpu(), before):
        raise AccelnbError(f"training did not work: the loss went {losses[0]:g} to {losses[-1]:g}")
    first = weights.clone()
    dist.broadcast(first, 0)
    if not torch.equal(first, weights):
        raise AccelnbError("the weights differ from those of rank 0 after training")
    middle = times[len(times) // 2]
    how = "DDP" if averaged else "gradients averaged by hand" if several else "one rank"
    precision = accelerator.mixed_precision.replace("no", "float32")
    return (
        f"{_UPDATES} steps in {precision} ({how}), {middle * 1e3:.1f} ms a step, "
        "equal weights on all ranks"
    )


def _device() -> torch.device:
    shell = get_ipython()
    assert shell is not None
    return shell.user_ns["device"]


def _gathered(value: torch.Tensor) -> list[int]:
    value = value.to(_device())
    parts = [torch.zeros_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, value)
    return [int(part) for part in parts]


def _expect(what: str, value: Any, known: Any) -> None:
    if value != known:
        raise AccelnbError(f"{what}: is {str(value)[:60]} instead of {str(known)[:60]}")


def _weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().float() for parameter in model.parameters()])


def _average_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def _timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - start
