"""Lightning's Fabric and Trainer with torchmetrics: they start no processes of their own here."""

from pathlib import Path
from typing import Any

import lightning
import tiny
import torch
import torchmetrics
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

POINTS = torch.randn(53, 8, generator=torch.Generator().manual_seed(1))
SIDES = (POINTS.sum(1) > 0).long()
TRAIN, TEST = TensorDataset(POINTS[:40], SIDES[:40]), TensorDataset(POINTS[40:], SIDES[40:])


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


def accuracy() -> torchmetrics.Metric:
    return torchmetrics.Accuracy("multiclass", num_classes=2)


def fabric(folder: Path, precision: Any = "32-true") -> dict[str, Any]:
    made = lightning.Fabric(accelerator="cpu", devices=2, strategy="ddp", precision=precision)
    made.launch()
    made.seed_everything(0)
    plain = network()
    model, optimizer = made.setup(plain, torch.optim.AdamW(plain.parameters(), lr=1e-2))
    loader = made.setup_dataloaders(DataLoader(TRAIN, 4, shuffle=True))
    metric, losses = accuracy(), []
    for step, (points, sides) in enumerate(loader):
        with made.no_backward_sync(model, enabled=step % 2 == 0):
            loss = cross_entropy(model(points), sides)
            made.backward(loss)
        losses.append(loss.item())
        metric.update(model(points), sides)
        if step % 2:
            made.clip_gradients(model, optimizer, max_norm=1.0)
            optimizer.step()
            optimizer.zero_grad()
    made.save(folder / "state.ckpt", {"model": model, "optimizer": optimizer})
    made.load(folder / "state.ckpt", {"model": model, "optimizer": optimizer})
    return {
        "losses": losses,
        "accuracy": metric.compute().item(),
        "ranks": made.all_gather(torch.tensor(made.global_rank)).tolist(),
        "weights": tiny.digest(model.state_dict()),
    }


def fabric_bf16(folder: Path) -> dict[str, Any]:
    return fabric(folder, precision="bf16-mixed")


class Sides(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network, self.metric = network(), accuracy()
        self.losses: list[float] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        loss = cross_entropy(self.network(batch[0]), batch[1])
        self.losses.append(loss.item())
        self.log("loss", loss, sync_dist=True)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        outputs = self.network(batch[0])
        self.metric(outputs, batch[1])
        self.log("accuracy", self.metric, on_epoch=True)
        self.log("validation", cross_entropy(outputs, batch[1]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


def trainer(folder: Path) -> dict[str, Any]:
    """A training, and another that goes on from its checkpoint."""
    module, made = fitted(folder / "whole", epochs=2)
    best = made.checkpoint_callback.best_model_path  # pyright: ignore
    resumed, _ = fitted(folder / "again", epochs=3, ckpt_path=best, weights_only=False)
    return {
        "losses": module.losses,
        "metrics": {name: float(value) for name, value in made.callback_metrics.items()},
        "weights": tiny.digest(module.state_dict()),
        "resumed": tiny.digest(resumed.state_dict()),
        "world": made.world_size,
        "files": tiny.files(folder / "whole" / "checkpoints"),
    }


def fitted(folder: Path, epochs: int, **checkpoint: Any) -> tuple[Sides, lightning.Trainer]:
    lightning.seed_everything(0)
    module = Sides()
    made = lightning.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=epochs,
        default_root_dir=folder,
        enable_progress_bar=False,
        logger=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
    )
    made.fit(module, DataLoader(TRAIN, 4, shuffle=True), DataLoader(TEST, 4), **checkpoint)
    return module, made


tiny.run_cases(fabric, fabric_bf16, trainer)
