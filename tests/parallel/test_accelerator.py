"""A loop with the Accelerator trains as the same loop written by hand, to the bit."""

from __future__ import annotations

import itertools

import pytest
from ranks import on_ranks

BATCH = 4
EVEN, UNEVEN = 48, 41


def _model(dropout: float):
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 16), torch.nn.GELU(), torch.nn.Dropout(dropout), torch.nn.Linear(16, 3)
    )


def _dataset(size: int, iterable: bool):
    import torch

    draws = torch.Generator().manual_seed(1)
    x = torch.randn(size, 6, generator=draws)
    y = torch.randint(3, (size,), generator=draws)
    whole = torch.utils.data.TensorDataset(x, y)
    if not iterable:
        return whole

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(whole)

    return Stream()


def _by_hand(
    size: int, precision: str, accumulation: int, dispatch: bool, dropout: float
) -> tuple[list[float], list[float]]:
    """Plain torch: batches dealt out in turn, the last round filled up from the beginning."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    rank, world = dist.get_rank(), dist.get_world_size()
    rounds = -(-size // (BATCH * world))
    batches = []
    for start in range(0, rounds * BATCH * world, BATCH * world):
        # What rank 0 dispatches at the end is as little as all ranks can share.
        each = min(BATCH, -(-(size - start) // world)) if dispatch else BATCH
        batches.append([i % size for i in range(start + rank * each, start + (rank + 1) * each)])
    loader = torch.utils.data.DataLoader(_dataset(size, False), batch_sampler=batches)
    model = DistributedDataParallel(_model(dropout))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    dtype = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "fp16")
    torch.manual_seed(rank)
    losses = []
    for step, (x, y) in enumerate(loader):
        is_boundary = (step + 1) % accumulation == 0 or step == rounds - 1
        model.require_backward_grad_sync = is_boundary
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            scores = model(x)
        loss = torch.nn.functional.cross_entropy(scores.float(), y)
        losses.append(loss.item())
        scaler.scale(loss / accumulation).backward()
        if is_boundary:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    return losses, torch.cat([p.flatten() for p in model.parameters()]).tolist()


def _by_accelerator(
    size: int, precision: str, accumulation: int, iterable: bool, dispatch: bool, dropout: float
) -> tuple[list[float], list[float]]:
    import torch

    from accelnb import Accelerator
    from accelnb.utils import DataLoaderConfiguration

    accelerator = Accelerator(
        mixed_precision=precision,
        gradient_accumulation_steps=accumulation,
        dataloader_config=DataLoaderConfiguration(dispatch_batches=dispatch),
    )
    model = _model(dropout)
    loader = torch.utils.data.DataLoader(_dataset(size, iterable), BATCH)
    loader, model, optimizer = accelerator.prepare(
        loader, model, torch.optim.AdamW(model.parameters(), lr=1e-2)
    )
    torch.manual_seed(accelerator.process_index)
    losses = []
    for x, y in loader:
        with accelerator.accumulate(model):
            loss = torch.nn.functional.cross_entropy(model(x), y)
            losses.append(loss.item())
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return losses, torch.cat([p.flatten() for p in model.parameters()]).tolist()


def _compared() -> dict[tuple, bool]:
    results = {}
    cases = itertools.product((EVEN, UNEVEN), ("no", "bf16", "fp16"), (1, 3))
    for size, precision, accumulation in cases:
        for dispatch in (False, True):
            # With dispatch only rank 0 has a loader, which draws a random number for its workers.
            dropout = 0.0 if dispatch else 0.1
            by_hand = _by_hand(size, precision, accumulation, dispatch, dropout)
            for iterable in (False, True):
                ours = _by_accelerator(size, precision, accumulation, iterable, dispatch, dropout)
                results[size, precision, accumulation, iterable, dispatch] = ours == by_hand
    return results


@pytest.mark.parametrize("procs", [2, 4])
def test_losses_and_weights_equal_hand_written_ddp_to_the_bit(procs):
    for results in on_ranks(_compared, procs=procs, timeout=100):
        assert len(results) == 48
        assert [case for case, equal in results.items() if not equal] == []


def _one_process(precision: str) -> bool:
    """Compare a shuffled loop of one process with plain torch."""
    import torch

    from accelnb import Accelerator

    def train(accelerator) -> list[float]:
        model = _model(0.1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        loader = torch.utils.data.DataLoader(_dataset(UNEVEN, False), BATCH, shuffle=True)
        if accelerator:
            model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        torch.manual_seed(7)
        losses = []
        for x, y in itertools.chain(loader, loader):
            with torch.autocast("cpu", enabled=precision == "bf16" and not accelerator):
                scores = model(x).float()
            loss = torch.nn.functional.cross_entropy(scores, y)
            losses.append(loss.item())
            accelerator.backward(loss) if accelerator else loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return losses

    return train(None) == train(Accelerator(mixed_precision=precision))


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_one_process_draws_random_numbers_as_plain_torch_does(precision):
    assert on_ranks(_one_process, precision, procs=1) == [True]
