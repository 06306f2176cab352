"""Optimizers that were made before their model was divided train its new parameters."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from accelnb import Accelerator, AccelnbError
from tests.ranks import on_ranks


def net() -> nn.Sequential:
    """Return a model with rows that two and four ranks do not divide evenly."""
    torch.manual_seed(0)
    parts = nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 5)
    return nn.Sequential(*parts)


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 6, generator=generator) for _ in range(5)]


def optimizer_of(model: nn.Sequential, kind: str) -> torch.optim.Optimizer:
    groups = [
        {"params": list(model[0].parameters()), "lr": 1e-2},
        {"params": [*model[2].parameters(), *model[4].parameters()], "lr": 5e-3},
    ]
    if kind == "AdamW":
        return torch.optim.AdamW(groups, eps=1e-4)
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def train(model: Any, optimizer: Any, scheduler: Any, data: list[torch.Tensor]) -> None:
    for batch in data:
        F.mse_loss(model(batch), torch.ones(len(batch), 5)).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()


def largest_difference(model: nn.Module, other: nn.Module) -> float:
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return max(float((p.full_tensor() - q).detach().abs().max()) for p, q in pairs)


def started(kind: str, warm: bool) -> tuple[Any, Any, Any]:
    model = net()
    optimizer = optimizer_of(model, kind)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    if warm:
        train(model, optimizer, scheduler, batches()[:1])
    return model, optimizer, scheduler


def trained_after_prepare(kind: str, warm: bool, order: str) -> tuple[float, list[float], int]:
    """Return how far from one process it comes, the learning rates, the old parameters kept."""
    accelerator = Accelerator(step_scheduler_with_optimizer=False)
    alone, model = started(kind, warm), started(kind, warm)
    train(*alone, batches()[1:])
    divided, optimizer, scheduler = model
    old = [weakref.ref(parameter) for parameter in divided.parameters()]
    if order == "together":
        divided, optimizer, scheduler = accelerator.prepare(divided, optimizer, scheduler)
    elif order == "model first":
        divided = accelerator.prepare(divided)
        optimizer, scheduler = accelerator.prepare(optimizer, scheduler)
    else:
        optimizer, scheduler = accelerator.prepare(optimizer, scheduler)
        divided = accelerator.prepare(divided)
    gc.collect()
    kept = sum(reference() is not None for reference in old)
    share, shares = accelerator.mesh.data_share, accelerator.mesh.data_shares
    train(divided, optimizer, scheduler, [it.chunk(shares)[share] for it in batches()[1:]])
    rates = [group["lr"] for group in optimizer.param_groups]
    accelerator.free_memory()
    return largest_difference(divided, alone[0]), rates, kept


def each_way() -> dict[Any, Any]:
    return {
        (kind, warm, order): trained_after_prepare(kind, warm, order)
        for kind in ("AdamW", "SGD")
        for warm in (False, True)
        for order in ("together", "model first", "optimizer first")
    }


def test_an_optimizer_made_before_prepare_trains_the_divided_model():
    for ways in on_ranks(each_way, procs=2, strategy="fsdp", timeout=120):
        for difference, rates, kept in ways.values():
            assert difference < 1e-6
            assert rates == [1e-2 / 4, 5e-3 / 4]  # the scheduler halved them twice
            assert kept == 0


def clipped() -> tuple[float, float]:
    accelerator, model, alone = Accelerator(), net(), net()
    before = list(model.parameters())
    model = accelerator.prepare(model)
    for one in (model, alone):
        one(batches()[0]).square().sum().backward()
    norm = accelerator.clip_grad_norm_(before, 1.0)
    return float(norm), float(nn.utils.clip_grad_norm_(alone.parameters(), 1.0))


def test_gradients_are_clipped_of_what_has_the_place_of_parameters_listed_before():
    for norm, expected in on_ranks(clipped, strategy="fsdp"):
        assert abs(norm - expected) < 1e-5 * expected


def partly_divided() -> dict[Any, float]:
    """Return how far joint steps are from one process where a cell divides some weights."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel
    from torch.distributed.tensor.parallel import parallelize_module as parallelize

    accelerator = Accelerator()
    mesh = init_device_mesh("cpu", (2,))
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}

    def even() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 5)
        )

    found = {}
    for kind in (torch.optim.AdamW, torch.optim.SGD):
        for ways in ({"foreach": True}, {"fused": True}):
            alone, model = even(), parallelize(even(), mesh, plan)
            for one, how in ((alone, {}), (model, ways)):
                rest = {"eps": 1e-4} if kind is torch.optim.AdamW else {"momentum": 0.9}
                optimizer = kind(one.parameters(), lr=0.01, **rest, **how)
                if one is model:
                    one, optimizer = accelerator.prepare(one, optimizer)
                for batch in batches():
                    F.mse_loss(one(batch), torch.ones(len(batch), 5)).backward()
                    optimizer.step()
                    optimizer.zero_grad()
            whole = [getattr(p, "full_tensor", lambda p=p: p)() for p in model.parameters()]
            pairs = zip(whole, alone.parameters(), strict=True)
            found[kind.__name__, *ways] = max(float((p - q).detach().abs().max()) for p, q in pairs)
            accelerator.free_memory()
    return found


def test_joint_steps_are_right_where_only_some_weights_are_divided():
    for found in on_ranks(partly_divided, strategy="none"):
        assert len(found) == 4
        assert max(found.values()) < 1e-6


def left_behind() -> str:
    from torch.distributed.fsdp import fully_shard

    accelerator, model = Accelerator(), net()
    left = torch.optim.AdamW(model.parameters())
    model = accelerator.prepare(fully_shard(model))
    try:
        accelerator.prepare(left)
    except AccelnbError as error:
        said = str(error)
    else:
        said = "nothing"
    # What is not a divided model's is one's own: a twin of it, a temperature, both together.
    twin, temperature = net(), nn.Parameter(torch.ones(()))
    accelerator.prepare(torch.optim.AdamW(twin.parameters()))
    accelerator.prepare(torch.optim.AdamW([temperature]))
    accelerator.prepare(torch.optim.AdamW([*model.parameters(), temperature]))
    return said


def test_an_optimizer_from_before_the_cell_divided_its_model_is_refused_and_no_other():
    for said in on_ranks(left_behind, strategy="none"):
        assert "has 6 parameters that were those of Sequential before it was divided" in said


def refused_state() -> tuple[str, bool, str]:
    model = net()
    optimizer = torch.optim.Adafactor(model.parameters())
    model(batches()[0]).sum().backward()
    optimizer.step()
    parameters = list(model.parameters())
    try:
        Accelerator().prepare(model, optimizer)
    except AccelnbError as error:
        unchanged = all(p is q for p, q in zip(parameters, model.parameters(), strict=True))
        gone = _of_a_model_that_is_no_more()
        return str(error), unchanged, gone
    return "", False, ""


def _of_a_model_that_is_no_more() -> str:
    accelerator, model = Accelerator(), net()
    optimizer = torch.optim.SGD(model.parameters())
    accelerator.prepare(model)
    del model
    accelerator.free_memory()
    gc.collect()
    try:
        accelerator.prepare(optimizer)
    except AccelnbError as error:
        return str(error)
    return ""


def test_state_that_cannot_be_divided_and_models_that_are_gone_are_refused():
    for said, unchanged, gone in on_ranks(refused_state, strategy="fsdp"):
        assert "row_var" in said
        assert "prepare it before its first step" in said
        assert unchanged
        assert gone.startswith("6 parameters are of a model that was divided and is no more")
