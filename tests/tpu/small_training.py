"""A small training on torch_xla and in plain torch, for the tests here, and processes for them."""

# pyright: reportMissingImports=false
from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH, SAMPLES, EPOCHS = 4, 42, 2
LIMIT = 200.0  # s for a process, most of it to import torch_xla on a busy machine

_CHILD = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    function, args = pickle.load(file)
with open(sys.argv[2], "wb") as file:
    pickle.dump(function(*args), file)
"""


def in_fresh_processes(
    folder: Path, function: Callable[..., Any], *args: Any, envs: list[dict[str, str]]
) -> list[Any]:
    """Return what a function returns in new processes, one for each environment."""
    import cloudpickle

    for module in (__name__, function.__module__):
        cloudpickle.register_pickle_by_value(sys.modules[module])
    (folder / "call").write_bytes(cloudpickle.dumps((function, args)))
    inherited = {n: v for n, v in os.environ.items() if not n.startswith(("PJRT_", "XLA_"))}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(folder / "call"), str(folder / f"result-{i}")],
            env=inherited | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i, env in enumerate(envs)
    ]
    try:
        said = [process.communicate(timeout=LIMIT)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == 0, text[-4000:]
    return [pickle.loads((folder / f"result-{i}").read_bytes()) for i in range(len(envs))]


# ---- a small training, in plain torch and with the Accelerator ----


def net(seed: int = 0) -> Any:
    import torch

    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.GELU(), torch.nn.Linear(16, 3))


def data() -> Any:
    import torch

    draws = torch.Generator().manual_seed(1)
    x = torch.randn(SAMPLES, 6, generator=draws)
    return torch.utils.data.TensorDataset(x, torch.randint(3, (SAMPLES,), generator=draws))


def plain(
    batch: int, accumulation: int, precision: str, *, even: bool = False
) -> tuple[list[float], list[float]]:
    """Train on the CPU without accelnb; return the losses and the weights."""
    import torch

    model = net()
    stepper = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(stepper, 2, 0.5)
    indices = list(range(SAMPLES)) + (list(range(-SAMPLES % batch)) if even else [])
    chosen = torch.utils.data.Subset(data(), indices)
    batches = list(torch.utils.data.DataLoader(chosen, batch))
    losses = []
    for _ in range(EPOCHS):
        for count, (x, y) in enumerate(batches, start=1):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                outputs = model(x)
            loss = torch.nn.functional.cross_entropy(outputs.float(), y)
            (loss / accumulation).backward()
            losses.append(loss.item())
            if count % accumulation == 0 or count == len(batches):
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
                stepper.step()
                schedule.step()
                stepper.zero_grad()
    return losses, numbers(model)


def accelerated(
    accumulation: int, precision: str, batch: int = BATCH, seed: int = 0
) -> tuple[list[float], list[float]]:
    import torch

    from accelnb import Accelerator

    accelerator = Accelerator(
        mixed_precision=precision,
        gradient_accumulation_steps=accumulation,
        scheduler_steps_per_update=1,
    )
    assert accelerator.device.type == "xla"
    model = net(seed)
    stepper = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(stepper, 2, 0.5)
    loader = torch.utils.data.DataLoader(data(), batch)
    model, stepper, schedule, loader = accelerator.prepare(model, stepper, schedule, loader)
    losses = []
    for x, y in itertools.chain.from_iterable(itertools.repeat(loader, EPOCHS)):
        with accelerator.accumulate(model):
            loss = torch.nn.functional.cross_entropy(model(x), y)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 0.3)
            stepper.step()
            schedule.step()
            stepper.zero_grad()
        losses.append(loss.detach())
    return [loss.item() for loss in losses], numbers(model)


def numbers(model: Any) -> list[float]:
    return [n for p in model.parameters() for n in p.detach().cpu().flatten().tolist()]
