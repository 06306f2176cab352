"""A small training with everything that a checkpoint holds."""

from __future__ import annotations

from typing import Any

import torch

from accelnb import Accelerator


class Counter:
    """A user's object with a state."""

    def __init__(self) -> None:
        self.seen = 0

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def prepared_training(width=4, project=None, **options) -> Any:
    """Return an Accelerator, and what it prepared and keeps."""
    accelerator = Accelerator(project_config=project, **options)
    model = torch.nn.Sequential(
        torch.nn.Linear(2, width), torch.nn.Dropout(0.3), torch.nn.Linear(width, 1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    data = torch.utils.data.TensorDataset(torch.linspace(-1, 1, 40).reshape(20, 2))
    loader = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    counter = Counter()
    accelerator.register_for_checkpointing(counter)
    return accelerator, model, optimizer, loader, scheduler, counter
