"""An Accelerator follows what is assigned to it, and what a subclass of it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from accelnb import Accelerator, AccelnbError
from accelnb.utils import DataLoaderConfiguration, ProjectConfiguration


def test_what_is_assigned_to_an_accelerator_holds_from_then_on(tmp_path):
    accelerator = Accelerator(mixed_precision="fp16")
    accelerator.scaler = None
    accelerator.dataloader_config = DataLoaderConfiguration(dispatch_batches=False)
    accelerator.activation_checkpointing = True
    with pytest.raises(AccelnbError, match="no repeated blocks"):
        accelerator.prepare(torch.nn.Linear(2, 1))
    accelerator.activation_checkpointing = False
    accelerator.project_configuration = ProjectConfiguration(
        str(tmp_path), automatic_checkpoint_naming=True
    )
    model = torch.nn.Linear(2, 1)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
    accelerator.backward(model(torch.ones(1, 2)).sum())
    optimizer.step()
    accelerator._optimizers = []
    saved = Path(accelerator.save_state())
    assert saved == tmp_path / "checkpoints" / "checkpoint_0"
    assert {"model.safetensors"} == {
        file.name for file in saved.iterdir() if file.suffix in (".safetensors", ".bin", ".pt")
    }
    assert accelerator.dispatch_batches is False


class Halving(Accelerator):
    def get_state_dict(self, model, unwrap=True):
        return {name: value / 2 for name, value in super().get_state_dict(model, unwrap).items()}

    def verify_device_map(self, model):
        return False


def test_what_a_subclass_says_of_weights_and_devices_counts(tmp_path):
    accelerator, model = Halving(), torch.nn.Linear(1, 1)
    vars(model)["hf_device_map"] = {"weight": 0, "bias": 1}
    accelerator.save_model(accelerator.prepare(model), tmp_path)
    accelerator.save_state(tmp_path / "state")
    for folder in (tmp_path, tmp_path / "state"):
        saved = load_file(folder / "model.safetensors")
        assert saved["weight"].item() == model.weight.item() / 2
