"""A script written for Accelerate gives the same numbers when only its import is changed."""

from __future__ import annotations

import pytest
from ranks import under_torchrun

# In the style of Accelerate's own examples, with what they use.
PROGRAM = """
import torch
from accelerate import Accelerator
from accelerate.utils import (
    DataLoaderConfiguration, GradientAccumulationPlugin, ProjectConfiguration, set_seed
)
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR
from torch.utils.data import DataLoader, Dataset

class Points(Dataset):
    def __init__(self, size, seed):
        draws = torch.Generator().manual_seed(seed)
        self.x = torch.randn(size, 5, generator=draws)
        self.y = (self.x.sum(1) > 0).long()
    def __len__(self):
        return len(self.y)
    def __getitem__(self, i):
        return {"features": self.x[i], "label": self.y[i]}

def training_function(project_dir):
    accelerator = Accelerator(
        cpu=True,
        mixed_precision=PRECISION,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=ACCUMULATION),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, split_batches=SPLIT),
        project_config=ProjectConfiguration(project_dir, automatic_checkpoint_naming=True),
    )
    set_seed(42)
    train = DataLoader(Points(83, 0), shuffle=True, batch_size=8)
    test = DataLoader(Points(37, 1), batch_size=8)
    model = torch.nn.Sequential(
        torch.nn.Linear(5, 16), torch.nn.ReLU(), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 2)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-2)
    scheduler = OneCycleLR(optimizer, max_lr=5e-2, epochs=3, steps_per_epoch=len(train))
    model, optimizer, train, test, scheduler = accelerator.prepare(
        model, optimizer, train, test, scheduler
    )
    losses, rates, counts = [], [], []
    for epoch in range(3):
        model.train()
        for batch in train:
            with accelerator.accumulate(model):
                loss = torch.nn.functional.cross_entropy(model(batch["features"]), batch["label"])
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            losses.append(accelerator.reduce(loss.detach(), "mean").item())
            rates.append(scheduler.get_last_lr()[0])
        accelerator.save_state()
        model.eval()
        correct = seen = 0
        for batch in test:
            with torch.no_grad():
                predicted = model(batch["features"]).argmax(-1)
            predicted, labels = accelerator.gather_for_metrics((predicted, batch["label"]))
            correct += int((predicted == labels).sum())
            seen += len(labels)
        counts.append([correct, seen])
    weights = torch.cat([p.flatten() for p in accelerator.unwrap_model(model).parameters()])
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return [losses, rates, counts, weights.tolist()]

result = training_function("project")
"""


@pytest.mark.parametrize(
    ("procs", "precision", "accumulation", "split"),
    [(2, "no", 1, False), (2, "bf16", 3, True), (1, "no", 2, False)],
)
def test_only_the_import_changes(procs, precision, accumulation, split, tmp_path):
    values = f"PRECISION, ACCUMULATION, SPLIT = {precision!r}, {accumulation}, {split}"
    results = {}
    for library in ("accelerate", "accelnb"):
        folder = tmp_path / library
        folder.mkdir()
        source = values + PROGRAM.replace("from accelerate", f"from {library}")
        results[library] = under_torchrun(source, folder, procs)
    for theirs, ours in zip(results["accelerate"], results["accelnb"], strict=True):
        for what, expected, found in zip(
            ("losses", "rates", "counts", "weights"), theirs, ours, strict=True
        ):
            assert found == expected, what
    assert [seen for _, seen in results["accelnb"][0][2]] == [37] * 3
