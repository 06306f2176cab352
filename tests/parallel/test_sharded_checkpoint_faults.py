"""What goes wrong with a checkpoint in parts is one line on every rank, and changes nothing."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import sys
from pathlib import Path

import cloudpickle
import sharded_layouts
import torch
from ranks import on_ranks
from sharded_layouts import Net, prepared, train
from torch import nn

from accelnb import AccelnbError

# The ranks cannot import it: what it defines travels by value.
cloudpickle.register_pickle_by_value(sys.modules[sharded_layouts.__name__])


class Wide(Net):
    """Another model."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks[1].first = nn.Linear(6, 12)
        self.blocks[1].second = nn.Linear(12, 6)


def _refusals(folder):
    """Save, spoil copies in different ways, and return what loading each of them says."""
    from torch.distributed.fsdp import fully_shard

    training = prepared("by_hand")
    accelerator, model, optimizer, *_ = training
    train(training, 0, 2)
    accelerator.save_state(f"{folder}/good")
    train(training, 2, 3)
    wide, deep = fully_shard(Wide()), fully_shard(nn.Sequential(Net()))
    others = {"wide": prepared("by_hand", wide), "deep": prepared("by_hand", deep)}
    one_group = torch.optim.AdamW(model.parameters(), foreach=False)
    if accelerator.is_main_process:
        _spoil(Path(folder))
    accelerator.wait_for_everyone()

    def said(where, accelerator=accelerator):
        before = [parameter.to_local().clone() for parameter in model.parameters()]
        moments = [state["exp_avg"].to_local().clone() for state in optimizer.state.values()]
        try:
            accelerator.load_state(f"{folder}/{where}")
        except AccelnbError as error:
            now = [parameter.to_local() for parameter in model.parameters()]
            then = [state["exp_avg"].to_local() for state in optimizer.state.values()]
            assert all(map(torch.equal, before, now)), where
            assert all(map(torch.equal, moments, then)), where
            return str(error).replace(folder, "")
        return "loaded"

    heard = {where: said(where) for where in ("short", "missing", "changed", "code", "listed")}
    heard |= {name: said("good", other[0]) for name, other in others.items()}
    accelerator._optimizers[:] = [accelerator.prepare(one_group)]
    heard["groups"] = said("good")
    accelerator._optimizers[:] = [optimizer]
    heard["good"] = said("good")
    return heard


def _spoil(home):
    for name in ("short", "missing", "changed", "code", "listed"):
        shutil.copytree(home / "good", home / name)
    with (home / "short/sharded/__0_0.distcp").open("r+b") as file:
        file.truncate(1000)
    (home / "missing/sharded/__1_0.distcp").unlink()
    part = home / "changed/sharded/__1_0.distcp"
    part.write_bytes(bytes(part.stat().st_size))
    size = (home / "code/sharded/.metadata").stat().st_size
    bad = pickle.dumps(os.system)
    (home / "code/sharded/.metadata").write_bytes(bad + bytes(size - len(bad)))
    (home / "listed/checkpoint.json").unlink()  # and so nothing says how large files are
    (home / "listed/sharded/__1_0.distcp").unlink()


def test_a_folder_that_is_cut_short_or_of_another_model_changes_nothing(tmp_path):
    zero, one = on_ranks(_refusals, str(tmp_path))
    assert zero["good"] == one["good"] == "loaded"
    for heard in (zero, one):
        assert "__0_0.distcp is damaged: it has 1000 bytes instead of " in heard["short"]
        assert heard["missing"].endswith("__1_0.distcp is missing; use another checkpoint")
        assert "/changed/sharded cannot be read, it seems damaged: " in heard["changed"]
        assert "holds a posix.system, which no checkpoint needs" in heard["code"]
        assert "/listed/sharded cannot be read, it seems damaged: " in heard["listed"]
        assert "/good/sharded is not of this Wide: blocks.1.first.weight is " in heard["wide"]
        assert "missing there: 0.scale, 0.shift, 0.embedding.weight and 14 more" in heard["deep"]
        assert "/good/optimizer.bin is of an optimizer with 2 groups, not 1" in heard["groups"]
        assert not any("\n" in line for line in heard.values())


def _on_a_full_disk(folder, asynchronous):
    from accelnb.training.checkpoint import background

    background._GRACE = 0.5
    training = prepared("by_hand")
    accelerator, model, *_ = training
    train(training, 0, 2)
    accelerator.save_state(folder)
    before = [parameter.to_local().clone() for parameter in model.parameters()]
    size = Path(folder, "sharded/__1_0.distcp").stat().st_size
    assert size > Path(folder, "random_states_1.pkl").stat().st_size
    train(training, 2, 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if accelerator.process_index == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, hard))  # a larger file is an OSError
    try:
        accelerator.save_state(folder, asynchronous=asynchronous)
        accelerator._finish_saves()
        said = "saved"
    except AccelnbError as error:
        said = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    accelerator.wait_for_everyone()
    left = os.listdir(Path(folder).parent)
    accelerator.wait_for_everyone()
    accelerator.load_state(folder)
    now = [parameter.to_local() for parameter in model.parameters()]
    return said, left, all(map(torch.equal, before, now))


def _weights_on_a_full_disk(folder):
    accelerator, model, *_ = prepared("by_hand")
    accelerator.save_model(model, folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = Path(folder, "model.safetensors").stat().st_size
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        accelerator.save_model(model, folder)
        said = "saved"
    except AccelnbError as error:
        said = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    accelerator.wait_for_everyone()
    left = os.listdir(folder)
    return said, left, Path(folder, "model.safetensors").stat().st_size == size


def test_one_ranks_full_disk_is_an_error_on_all_and_the_old_parts_stay(tmp_path):
    def both(folder):
        states = [_on_a_full_disk(f"{folder}/{int(a)}/checkpoint", a) for a in (False, True)]
        return [*states, _weights_on_a_full_disk(f"{folder}/weights")]

    zero, one = on_ranks(both, str(tmp_path))
    assert one[0][0].startswith("cannot write into ")
    assert zero[0][0] == "rank 1: " + one[0][0]
    assert "rank 1" in zero[1][0]
    assert one[1][0].startswith("cannot write into ")
    assert zero[2][0].startswith("cannot write model.safetensors in ")
    assert one[2][0] == "rank 0: " + zero[2][0]
    for _, left, unchanged in zero + one:
        assert left in (["checkpoint"], ["model.safetensors"])
        assert unchanged


def _without_a_common_disk(folder, layout):
    """Save where ranks 0 and 1 see another disk than ranks 2 and 3."""
    training = prepared(layout)
    accelerator = training[0]
    train(training, 0, 2)
    mine = Path(folder, f"machine{accelerator.process_index // 2}", layout)
    accelerator.state.local_process_index = accelerator.process_index % 2
    try:
        accelerator.save_state(mine)
        going_on = train(training, 2, 4)
        accelerator.load_state(mine)
        return train(training, 2, 4) == going_on
    except AccelnbError as error:
        return str(error)


def test_machines_without_a_common_disk_need_a_whole_model_each(tmp_path):
    def both(folder):
        return [_without_a_common_disk(folder, layout) for layout in ("hsdp", "fsdp")]

    heard = on_ranks(both, str(tmp_path), procs=4)
    assert [goes_on for goes_on, _ in heard] == [True] * 4
    for _, said in heard:
        assert said.endswith("parts of the model: save into a folder that all ranks share")
    assert sorted(os.listdir(tmp_path / "machine1")) == ["hsdp"]
