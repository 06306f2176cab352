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
from accelnb.training.device_mesh import device_mesh

_MIB = 1 << 20
_SIZES = (1, 16, 64)  # MiB that are reduced
_REPEATS = 3
_UPDATES = 8  # of the optimizer
_SHARDED_UPDATES = 3
_CLOSE = 1e-3  # some devices compute with fewer bits than 32
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


def sharding() -> str:
    """Train a model whose weights all ranks divide, and compare it with one that has them whole."""
    size = dist.get_world_size()
    if size == 1:
        return "one rank has nobody to share with"
    from torch.distributed.fsdp import fully_shard

    device = _device()
    alone, divided = _model().to(device), _model().to(device)
    over = device_mesh(device.type, ("dp_shard",), (size,))
    for layer in divided.children():
        fully_shard(layer, mesh=over)
    fully_shard(divided, mesh=over)
    inputs, targets = _batch(size * _BATCH)
    own_inputs, own_targets = (part.chunk(size)[dist.get_rank()] for part in (inputs, targets))
    losses = []
    for model, given, wanted in (
        (alone, inputs, targets),
        (divided, own_inputs, own_targets),
    ):
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        for _ in range(_SHARDED_UPDATES):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(given), wanted)
            loss.backward()
            optimizer.step()
        losses.append(loss.detach())
    dist.all_reduce(losses[1])
    _expect_close("the loss", losses[1] / size, losses[0])
    _expect_close("the gathered weights", _weights(divided), _weights(alone))
    held = sum(parameter.to_local().numel() for parameter in divided.parameters())  # pyright: ignore
    return (
        f"each rank holds {held / len(_weights(alone)):.0%} of a model; after {_SHARDED_UPDATES} "
        "steps its loss and gathered weights are those of one process"
    )


def training() -> str:
    """Train a small model, each rank on its own data, and compare the weights."""
    accelerator = Accelerator()
    model = _model()
    before = _weights(model).clone()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.05))
    several = dist.get_world_size() > 1
    averaged = accelerator.strategy.averages
    inputs, targets = _batch(_BATCH, seed=accelerator.mesh.data_share)

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
    how = "gradients averaged by hand" if several else "one rank"
    if averaged:
        how = "weights divided by FSDP" if accelerator.strategy.shards else "DDP"
    precision = accelerator.mixed_precision.replace("no", "float32")
    return (
        f"{_UPDATES} steps in {precision} ({how}), {middle * 1e3:.1f} ms a step, "
        "equal weights on all ranks"
    )


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(_WIDTH, _WIDTH),
        nn.GELU(),
        nn.Linear(_WIDTH, _WIDTH),
        nn.GELU(),
        nn.Linear(_WIDTH, 1),
    )
    vars(model)["tp_plan"] = {"0": "colwise", "2": "rowwise"}  # for a mesh with `tp`
    return model


def _batch(size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    inputs = torch.randn(size, _WIDTH).to(_device())
    return inputs, inputs.sum(1, keepdim=True) / _WIDTH**0.5


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


def _expect_close(what: str, value: torch.Tensor, known: torch.Tensor) -> None:
    off = (value - known).abs().max().item()
    if not off <= _CLOSE:
        raise AccelnbError(f"{what}: is {off:.2g} off what one process computes")


def _weights(model: nn.Module) -> torch.Tensor:
    """Return all weights; those that are divided are gathered, for which all ranks call it."""
    parameters = [parameter.detach() for parameter in model.parameters()]
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in parameters]  # pyright: ignore
    return torch.cat([weight.flatten().float() for weight in whole])


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
