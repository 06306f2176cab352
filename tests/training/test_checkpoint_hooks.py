"""Hooks that save and load models in their own way, as training scripts of diffusers have them."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from ranks import on_ranks

from accelnb import Accelerator


class Pretrained(torch.nn.Module):
    """A model with its own way to save itself, as those of diffusers."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(x)

    def save_pretrained(self, folder):
        Path(folder).mkdir()
        values = {name: value.tolist() for name, value in self.state_dict().items()}
        Path(folder, "weights.json").write_text(json.dumps(values))

    def load_pretrained(self, folder):
        values = json.loads(Path(folder, "weights.json").read_text())
        self.load_state_dict({name: torch.tensor(value) for name, value in values.items()})


def _with_hooks(accelerator, average):
    def save(models, weights, output_dir):
        if accelerator.is_main_process:
            average.save_pretrained(Path(output_dir, "unet_ema"))
            for model in models:
                model.save_pretrained(Path(output_dir, "unet"))
                weights.pop()  # or it would be saved again

    def load(models, input_dir):
        average.load_pretrained(Path(input_dir, "unet_ema"))
        for _ in range(len(models)):
            models.pop().load_pretrained(Path(input_dir, "unet"))

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def _saved_and_loaded(folder, compiled, by_main):
    accelerator = Accelerator(dynamo_backend="eager" if compiled else None)
    given = Pretrained()
    average = copy.deepcopy(given)
    model = accelerator.prepare(given)
    _with_hooks(accelerator, average)
    model(torch.ones(2, 3)).sum().backward()
    weights = [value.clone() for value in given.state_dict().values()]
    if accelerator.is_main_process or not by_main:
        accelerator.save_state(folder)
    accelerator.wait_for_everyone()
    with torch.no_grad():
        for parameter in [*given.parameters(), *average.parameters()]:
            parameter.zero_()
    accelerator.load_state(folder)
    after = [*given.state_dict().values(), *average.state_dict().values()]
    return all(map(torch.equal, weights + weights, after))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("by_main", [False, True])
def test_hooks_get_the_models_that_prepare_got(tmp_path, compiled, by_main):
    folder = tmp_path / "checkpoint"
    assert on_ranks(_saved_and_loaded, str(folder), compiled, by_main) == [True, True]
    assert not (folder / "model.safetensors").exists()
    assert {"unet", "unet_ema"} <= {path.name for path in folder.iterdir()}


def _compiled_by_the_user():
    accelerator = Accelerator()
    given = torch.compile(Pretrained(), backend="eager")
    accelerator.prepare(given)
    seen = []
    accelerator.register_save_state_pre_hook(lambda models, *_: seen.extend(models))
    return accelerator, given, seen


def test_a_model_that_the_user_compiled_comes_compiled(tmp_path):
    accelerator, given, seen = _compiled_by_the_user()
    accelerator.save_state(tmp_path / "checkpoint")
    assert [model is given for model in seen] == [True]


def _taken_out_by_main(folder):
    accelerator = Accelerator()
    model = accelerator.prepare(Pretrained())
    seen = []

    def save(models, weights, output_dir):
        seen.extend(models)
        if accelerator.is_main_process:
            weights.pop()

    accelerator.register_save_state_pre_hook(save)
    accelerator.save_state(folder)
    return [type(one).__name__.removeprefix("FSDP") for one in seen], seen[0] is model


def test_weights_of_a_divided_model_that_rank_0_takes_out_are_saved_by_no_rank(tmp_path):
    folder = tmp_path / "checkpoint"
    found = on_ranks(_taken_out_by_main, str(folder), strategy="fsdp")
    assert found == [(["Pretrained"], True)] * 2
    assert not (folder / "sharded").exists()
    assert not (folder / "model.safetensors").exists()
