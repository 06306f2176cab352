"""The folders of Accelerate's FSDP: read here, and what is written here is read there."""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest
import sharded_layouts
import torch
from ranks import on_ranks
from sharded_layouts import net, prepared, train

from accelnb.utils import (
    FullyShardedDataParallelPlugin,
    load_checkpoint_in_model,
    load_fsdp_model,
    load_fsdp_optimizer,
    merge_fsdp_weights,
    save_fsdp_model,
    save_fsdp_optimizer,
)

# The ranks cannot import it: what it defines travels by value.
cloudpickle.register_pickle_by_value(sys.modules[sharded_layouts.__name__])


def _state(training):
    _, model, optimizer, *_ = training
    weights = [p.to_local().tolist() for p in model.parameters()]
    return weights, [s["exp_avg"].to_local().tolist() for s in optimizer.state.values()]


def _spoil(training):
    _, model, optimizer, *_ = training
    with torch.no_grad():
        for tensor in [*model.parameters(), *(s["exp_avg"] for s in optimizer.state.values())]:
            tensor.zero_()


def _with_accelerate(folder):
    from accelerate.utils import fsdp_utils
    from torch.distributed.fsdp import StateDictType

    fsdp_utils.logger = logging.getLogger("accelerate")  # its own wants its own state
    training = prepared("fsdp")
    accelerator, model, optimizer, *_ = training
    train(training, 0, 3)
    before, heard = _state(training), []
    kind = StateDictType.SHARDED_STATE_DICT
    plugin: Any = SimpleNamespace(fsdp_version=2, state_dict_type=kind, state_dict_config=None)

    fsdp_utils.save_fsdp_model(plugin, accelerator, model, f"{folder}/theirs")
    fsdp_utils.save_fsdp_optimizer(plugin, accelerator, optimizer, model, f"{folder}/theirs")
    _spoil(training)
    load_fsdp_model(plugin, accelerator, model, f"{folder}/theirs")
    load_fsdp_optimizer(plugin, accelerator, optimizer, model, f"{folder}/theirs")
    heard.append(_state(training) == before)

    save_fsdp_model(plugin, accelerator, model, f"{folder}/ours")
    save_fsdp_optimizer(plugin, accelerator, optimizer, model, f"{folder}/ours")
    _spoil(training)
    fsdp_utils.load_fsdp_model(plugin, accelerator, model, f"{folder}/ours")
    fsdp_utils.load_fsdp_optimizer(plugin, accelerator, optimizer, model, f"{folder}/ours")
    heard.append(_state(training) == before)

    # A checkpoint of Accelerate is such folders beside the files of everything else.
    accelerator.save_state(f"{folder}/checkpoint")
    if accelerator.is_main_process:
        home = Path(folder, "checkpoint")
        shutil.rmtree(home / "sharded")
        (home / "optimizer.bin").unlink()
        (home / "checkpoint.json").unlink()
        for name in ("pytorch_model_fsdp_0", "optimizer_0"):
            shutil.copytree(Path(folder, "theirs", name), home / name)
    accelerator.wait_for_everyone()
    _spoil(training)
    accelerator.load_state(f"{folder}/checkpoint")
    heard.append(_state(training) == before)
    return heard


def test_folders_of_accelerate_are_read_and_ours_are_read_there(tmp_path):
    pytest.importorskip("accelerate")
    assert on_ranks(_with_accelerate, str(tmp_path)) == [[True] * 3] * 2
    for source in ("theirs", "ours"):
        merge_fsdp_weights(tmp_path / source / "pytorch_model_fsdp_0", tmp_path / "merged")
        model = net()
        load_checkpoint_in_model(model, tmp_path / "merged", strict=True)
        assert model.embedding.weight.sum() != net().embedding.weight.sum()


def _saved_whole(folder):
    plugin = FullyShardedDataParallelPlugin(state_dict_type="FULL_STATE_DICT")
    training = prepared("fsdp", fsdp_plugin=plugin)
    accelerator, model, optimizer, *_ = training
    train(training, 0, 3)
    accelerator.save_state(f"{folder}/checkpoint")
    before = _state(training)
    save_fsdp_model(plugin, accelerator, model, f"{folder}/alone")
    save_fsdp_optimizer(plugin, accelerator, optimizer, model, f"{folder}/alone")
    _spoil(training)
    load_fsdp_model(plugin, accelerator, model, f"{folder}/alone")
    load_fsdp_optimizer(plugin, accelerator, optimizer, model, f"{folder}/alone")
    equal = _state(training) == before
    losses = train(training, 3, 6)
    accelerator.load_state(f"{folder}/checkpoint")
    return equal, losses == train(training, 3, 6), losses


def test_a_full_state_dict_is_files_that_one_process_reads_too(tmp_path):
    ((equal, goes_on, losses), _) = on_ranks(_saved_whole, str(tmp_path))
    assert equal
    assert goes_on
    checkpoint = tmp_path / "checkpoint"
    assert (checkpoint / "model.safetensors").exists()
    assert not (checkpoint / "sharded").exists()
    assert sorted(p.name for p in (tmp_path / "alone").iterdir()) == [
        "optimizer.bin",
        "pytorch_model_fsdp.bin",
    ]
    training = prepared("single")
    training[0].load_state(checkpoint)
    assert train(training, 3, 6) == pytest.approx(losses, abs=1e-6)
