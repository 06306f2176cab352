"""diffusers' unconditional image generation: its training loop, with EMA and checkpoint hooks."""

from pathlib import Path
from typing import Any

import tiny
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import ProjectConfiguration, set_seed
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader, TensorDataset


class Training:
    """The objects of the example, prepared."""

    def __init__(self, folder: Path, steps: int = 1, precision: str = "no") -> None:
        AcceleratorState._reset_state()
        GradientState._reset_state()
        self.folder = folder
        self.accelerator = Accelerator(
            gradient_accumulation_steps=steps,
            mixed_precision=precision,
            project_config=ProjectConfiguration(str(folder), total_limit=2),
        )
        set_seed(0)
        model = UNet2DModel(
            sample_size=16,
            layers_per_block=1,
            block_out_channels=(16, 16),
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
        )
        self.average = EMAModel(
            model.parameters(),
            decay=0.9999,
            use_ema_warmup=True,
            inv_gamma=1.0,
            power=3 / 4,
            model_cls=UNet2DModel,
            model_config=model.config,
        )
        self.accelerator.register_save_state_pre_hook(self.save_models)
        self.accelerator.register_load_state_pre_hook(self.load_models)
        self.noise = DDPMScheduler(num_train_timesteps=50)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        images = torch.rand(22, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        loader = DataLoader(TensorDataset(images * 2 - 1), batch_size=4, shuffle=True)
        rate = get_scheduler(
            "cosine", optimizer, num_warmup_steps=1, num_training_steps=2 * len(loader)
        )
        prepared = self.accelerator.prepare(model, optimizer, loader, rate)
        self.model, self.optimizer, self.loader, self.rate = prepared
        self.losses: list[float] = []

    def save_models(self, models: list[Any], weights: list[Any], output_dir: str) -> None:
        if self.accelerator.is_main_process:
            self.average.save_pretrained(str(Path(output_dir, "unet_ema")))
            for model in models:
                model.save_pretrained(str(Path(output_dir, "unet")))
                weights.pop()  # so that it is not saved twice

    def load_models(self, models: list[Any], input_dir: str) -> None:
        self.average.load_state_dict(
            EMAModel.from_pretrained(str(Path(input_dir, "unet_ema")), UNet2DModel).state_dict()
        )
        for _ in range(len(models)):
            model = models.pop()
            read: Any = UNet2DModel.from_pretrained(input_dir, subfolder="unet")
            model.register_to_config(**read.config)
            model.load_state_dict(read.state_dict())

    def epoch(self, save_at: int = -1) -> None:
        self.model.train()
        for (clean,) in self.loader:
            noise = torch.randn(clean.shape)
            times = torch.randint(0, 50, (len(clean),)).long()
            noisy = self.noise.add_noise(clean, noise, times)  # pyright: ignore
            with self.accelerator.accumulate(self.model):
                loss = F.mse_loss(self.model(noisy, times).sample.float(), noise)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimizer.step()
                self.rate.step()
                self.optimizer.zero_grad()
            self.losses.append(loss.item())
            if self.accelerator.sync_gradients:
                self.average.step(self.model.parameters())
                if len(self.losses) == save_at and self.accelerator.is_main_process:
                    self.accelerator.save_state(str(self.folder / f"checkpoint-{save_at}"))

    def report(self) -> dict[str, Any]:
        plain: Any = self.accelerator.unwrap_model(self.model)
        last = tiny.digest(plain.state_dict())
        self.average.store(plain.parameters())
        self.average.copy_to(plain.parameters())
        averaged = tiny.digest(plain.state_dict())
        if self.accelerator.is_main_process:
            DDPMPipeline(unet=plain, scheduler=self.noise).save_pretrained(self.folder / "final")
        self.average.restore(plain.parameters())
        self.accelerator.wait_for_everyone()
        return {
            "losses": self.losses,
            "weights": last,
            "averaged": averaged,
            "rate": self.rate.get_last_lr(),
            "files": tiny.files(self.folder / "final"),
        }


def trained(folder: Path) -> dict[str, Any]:
    training = Training(folder)
    training.epoch()
    training.epoch()
    return training.report()


def accumulating_in_bf16(folder: Path) -> dict[str, Any]:
    training = Training(folder, steps=2, precision="bf16")
    training.epoch()
    return training.report()


def saved_on_the_main_process(folder: Path) -> dict[str, Any]:
    """The example saves on the main process alone, and goes on from there."""
    training = Training(folder)
    training.epoch(save_at=3)
    whole = training.report()
    again = Training(folder)
    again.accelerator.load_state(str(folder / "checkpoint-3"))
    read = tiny.digest(again.accelerator.unwrap_model(again.model).state_dict())
    average = tiny.digest(numbered(again.average.shadow_params))
    files = tiny.files(folder / "checkpoint-3")
    return {"whole": whole, "read": read, "average": average, "files": files}


def numbered(tensors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {str(place): tensor for place, tensor in enumerate(tensors)}


tiny.run_cases(trained, accumulating_in_bf16, saved_on_the_main_process)
