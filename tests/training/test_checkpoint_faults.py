"""A checkpoint is whole, whatever happens while it is saved."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ranks import on_ranks
from small_checkpoint import prepared_training

from accelnb import AccelnbError, RankError

_SAVE_AND_BE_KILLED = """
import os, random, signal, sys, time
import torch
from accelnb import Accelerator
torch.set_num_threads(1)
folder = sys.argv[1]

class Version:
    value = 0
    def state_dict(self): return {"value": self.value}
    def load_state_dict(self, state): self.value = state["value"]

accelerator = Accelerator()
model = torch.nn.Linear(100, 100)
version = Version()
accelerator.prepare(model)
accelerator.register_for_checkpointing(version)

def save(value, asynchronous=False):
    version.value = value
    torch.nn.init.constant_(model.weight, value)
    accelerator.save_state(folder, asynchronous=asynchronous)

save(1)
random.seed(7)
lived = []
for asynchronous in [False, True] * 8:
    began, begins = os.pipe()
    child = os.fork()
    if child == 0:
        while True:
            save(version.value + 1, asynchronous)
            save(version.value + 1, asynchronous)  # the one before is complete now
            os.write(begins, b".")
    os.read(began, 1)
    time.sleep(random.uniform(0.0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    accelerator.load_state(folder)
    assert torch.all(model.weight == version.value), "parts of two checkpoints"
    lived.append(version.value)
assert lived == sorted(set(lived)), lived
save(version.value + 1)
left = os.listdir(os.path.dirname(folder))
assert left == [os.path.basename(folder)], left
"""


def test_a_process_killed_at_any_moment_of_a_save_leaves_a_whole_checkpoint(tmp_path):
    (tmp_path / "home").mkdir()
    script = tmp_path / "script.py"
    script.write_text(_SAVE_AND_BE_KILLED)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "home/checkpoint"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("at", ["rename", "exchange"])
def test_a_kill_between_two_renames_is_undone_where_folders_cannot_be_exchanged(
    tmp_path, monkeypatch, at
):
    from accelnb.training.checkpoint import folder as module

    prepared = prepared_training()
    target = tmp_path / "checkpoint"
    prepared[5].seen = 1
    prepared[0].save_state(target)
    prepared[5].seen = 2
    monkeypatch.setattr(module, "_exchange", lambda one, other: False)
    if at == "exchange":
        prepared[0].save_state(target)
        expected = 2
    else:  # what is on the disk when the process is killed after the first rename
        target.rename(tmp_path / ".checkpoint.previous")
        shutil.copytree(tmp_path / ".checkpoint.previous", tmp_path / ".checkpoint.saving-dead")
        expected = 1
    prepared[0].load_state(target)
    assert prepared[5].seen == expected
    prepared[0].save_state(target)
    assert os.listdir(tmp_path) == ["checkpoint"]


def _saved_on_a_full_disk(folder, asynchronous):
    from accelnb.training.checkpoint import background

    background._GRACE = 0.5
    prepared = prepared_training(width=4000)
    accelerator = prepared[0]
    prepared[5].seen = 1
    accelerator.save_state(folder)
    prepared[5].seen = 2
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if accelerator.is_main_process:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # a larger file is an OSError
    try:
        saved = accelerator.save_state(folder, asynchronous=asynchronous)
        assert asynchronous, saved
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
    return said, prepared[5].seen, left


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_is_an_error_on_every_rank_and_the_old_checkpoint_stays(tmp_path, asynchronous):
    folder = str(tmp_path / "checkpoint")
    zero, one = on_ranks(_saved_on_a_full_disk, folder, asynchronous)
    assert zero[0].startswith("cannot write ")
    assert "MB free" in zero[0]
    if not asynchronous:
        assert one[0] == "rank 0: " + zero[0]
    assert zero[1:] == one[1:] == (1, ["checkpoint"])


def _killed_in_its_second_save(folder):
    prepared = prepared_training()
    accelerator = prepared[0]
    prepared[5].seen = 1
    accelerator.save_state(folder)
    prepared[5].seen = 2

    def kill(models, weights, folder):
        Path(folder, "begun").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    if accelerator.process_index == 1:
        accelerator.register_save_state_pre_hook(kill)
    accelerator.save_state(folder)


def test_a_rank_killed_while_it_saves_leaves_the_old_checkpoint(tmp_path):
    folder = str(tmp_path / "checkpoint")
    with pytest.raises(RankError):
        on_ranks(_killed_in_its_second_save, folder)
    prepared = prepared_training()
    prepared[0].load_state(folder)
    assert prepared[5].seen == 1
    prepared[0].save_state(folder)
    assert os.listdir(tmp_path) == ["checkpoint"]
