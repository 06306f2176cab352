"""`accelnb merge-weights` and `accelnb estimate-memory`, against real checkpoints and models."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import nn

from accelnb import Accelerator
from accelnb.cli import estimate_memory, merge_weights
from accelnb.cli.memory_estimate import ModelSize, estimate, read_model
from accelnb.cli.memory_estimate.rank_memory import STRATEGIES
from accelnb.errors import AccelnbError
from accelnb.training.checkpoint.merging import merge_weights as merge

SHARDED = """\
import torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions, get_model_state_dict, get_state_dict)
from torch.distributed.fsdp import fully_shard
dist.init_process_group("gloo")
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
fully_shard(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
model(torch.ones(4, 7) * (1 + dist.get_rank())).sum().backward()
optimizer.step()
weights, state = get_state_dict(model, optimizer)
dcp.save({"model": weights, "optim": state, "epoch": 3}, checkpoint_id="sharded")
whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
if dist.get_rank() == 0:
    save_file(whole, "whole.safetensors")
dist.destroy_process_group()
"""


class Net(nn.Module):
    """Small, and its activations are easily counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 8)
        self.second = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def half() -> Net:
    return Net().to(torch.bfloat16)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_the_shards_of_two_ranks_become_the_whole_weights_to_the_bit(tmp_path):
    (tmp_path / "train.py").write_text(SHARDED)
    launched = subprocess.run(
        [sys.executable, "-m", "accelnb", "launch", "-n", "2", "train.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert launched.returncode == 0, launched.stderr
    words = [str(tmp_path / "sharded"), str(tmp_path / "model.safetensors")]
    done = CliRunner().invoke(merge_weights.command, words)
    assert done.output == f"4 tensors are in {words[1]}\n"
    whole = load_file(tmp_path / "whole.safetensors")
    assert equal(load_file(words[1]), whole)
    with pytest.raises(AccelnbError, match="is there already: give another name, or --force"):
        merge(*words)
    merge(words[0], tmp_path / "moments.safetensors", key="optim.state")
    assert len(load_file(tmp_path / "moments.safetensors")) == 3 * 4
    with pytest.raises(AccelnbError, match="holds nothing at ema; it has"):
        merge(words[0], tmp_path / "ema.safetensors", key="ema")


def test_safetensors_in_several_files_become_one(tmp_path):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    Accelerator().save_model(model, str(tmp_path / "parts"), max_shard_size=300)
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    merge(tmp_path / "parts", tmp_path / "one.safetensors")
    assert equal(load_file(tmp_path / "one.safetensors"), model.state_dict())


def test_what_is_no_checkpoint_or_would_run_code_is_refused(tmp_path):
    with warnings.catch_warnings(action="ignore"):  # that this is a single process
        dcp.save({"model": {"w": torch.ones(2)}}, checkpoint_id=tmp_path / "cut", no_dist=True)
    (part,) = (tmp_path / "cut").glob("*.distcp")
    part.unlink()
    with warnings.catch_warnings(action="ignore"):
        dcp.save({"w": torch.ones(2)}, checkpoint_id=tmp_path / "begun", no_dist=True)
    (tmp_path / "begun" / ".metadata").unlink()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / ".metadata").write_bytes(pickle.dumps(os.system))
    for name, message in (
        ("nothing", "nothing: no such checkpoint"),
        ("cut", "cut cannot be read, it seems damaged"),
        ("begun", "no .metadata, which is written last"),
        ("bad", "holds a posix.system, which no checkpoint needs"),
    ):
        with pytest.raises(AccelnbError, match=message):
            merge(tmp_path / name, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    with pytest.raises(AccelnbError, match="give a name that ends in"):
        merge(tmp_path / "cut", tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("source", ["Net", "half"])
def test_the_estimate_is_what_training_takes(source):
    inputs = "32x16" if source == "Net" else "32x16:bfloat16"
    size = read_model(f"{Path(__file__)}:{source}", inputs=[inputs])
    need = estimate(size, procs=1, strategy="ddp", precision="no", optimizer="adamw")
    model = globals()[source]()
    optimizer = torch.optim.AdamW(model.parameters())
    kept: dict[int, int] = {}
    own = {parameter.data_ptr() for parameter in model.parameters()}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = model(torch.rand(32, 16, dtype=next(model.parameters()).dtype))
    loss.sum().backward()
    optimizer.step()
    state = sum(v.nbytes for s in optimizer.state.values() for k, v in s.items() if k != "step")
    assert need.parameters == sum(p.nbytes for p in model.parameters())
    assert need.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    assert need.optimizer == state
    assert need.activations == sum(kept.values())


def test_strategies_divide_what_they_are_to_divide():
    size = ModelSize("m", parameters=1000, largest_layer=100)
    whole = [strategy for strategy in STRATEGIES if strategy != "hsdp"]
    needs = {s: estimate(size, procs=4, strategy=s, precision="bf16") for s in whole}
    parts = {s: (n.parameters, n.gradients, n.optimizer) for s, n in needs.items()}
    assert parts == {
        "ddp": (4000, 4000, 8000),
        "zero1": (4000, 4000, 2000),
        "zero2": (4000, 1000, 2000),
        "fsdp": (1000, 1000, 2000),
    }
    assert needs["fsdp"].total < needs["zero2"].total < needs["zero1"].total < needs["ddp"].total
    half_size = ModelSize("m", parameters=1000, largest_layer=100, parameter_bytes=2000)
    assert estimate(half_size, procs=4, strategy="fsdp", precision="no").copies == 400


@pytest.mark.parametrize(
    ("strategy", "mesh", "parameters", "copies", "activations"),
    [
        ("fsdp", {"dp_shard": 2, "tp": 2}, 1000, 400, 96),
        ("fsdp", {"tp": 4}, 1000, 0, 96),
        ("fsdp", {"dp_shard": 2, "cp": 2}, 1000, 800, 48),
        ("hsdp", {"dp_replicate": 2, "dp_shard": 2}, 2000, 800, 96),
        ("ddp", {"dp_replicate": 2, "tp": 2}, 2000, 2000, 96),
    ],
)
def test_a_mesh_divides_by_its_dimensions(strategy, mesh, parameters, copies, activations):
    size = ModelSize("m", parameters=1000, largest_layer=100, activations=96)
    need = estimate(size, procs=4, strategy=strategy, precision="no", mesh=mesh)
    assert (need.parameters, need.gradients, need.optimizer) == (
        parameters,
        parameters,
        2 * parameters,
    )
    assert (need.copies, need.activations) == (copies, activations)


def test_ddp_is_shown_beside_a_mesh_and_a_wrong_mesh_is_one_line():
    def said(*words: str) -> tuple[int, str]:
        model = f"{Path(__file__)}:Net"
        done = CliRunner().invoke(estimate_memory.command, [model, "--precision", "no", *words])
        return done.exit_code, done.output

    code, table = said("--strategy", "fsdp", "--mesh", "dp_shard=-1,tp=2", "-n", "8")
    assert code == 0
    assert "each of 8 ranks (dp_shard=4,tp=2)" in table
    assert [line.split()[0] for line in table.splitlines()[3:5]] == ["ddp", "fsdp"]
    for words, message in (
        (("--mesh", "tp=3", "-n", "8"), "mesh=tp=3: has 3 places for 8 ranks"),
        (("--mesh", "width=3"), "mesh=width=3: must be dimensions such as dp_shard=2,tp=2"),
        (("--strategy", "hsdp", "-n", "4"), "strategy=hsdp: say how large its groups are"),
        (("--strategy", "zero9"), "strategy=zero9: choose one of ddp, zero1"),
    ):
        code, line = said(*words)
        assert (code, message in line, line.count("\n")) == (2, True, 1), line


def test_a_folder_needs_no_weights_in_memory_and_wrong_models_are_one_line(tmp_path):
    Accelerator().save_model(Net(), str(tmp_path))
    fields = '{"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}'
    (tmp_path / "config.json").write_text(fields)
    (tmp_path / "ends.py").write_text("raise SystemExit(3)")
    words = [
        str(tmp_path / "config.json"),
        "-n",
        "4",
        "--precision",
        "no",
        "--batch",
        "2",
        "--sequence",
        "16",
    ]
    done = CliRunner().invoke(estimate_memory.command, words)
    assert "172 parameters" in done.output
    assert "Korthikanti" in done.output
    for source, message in (
        ("nothing", "no such file or folder; for a class say module:Class"),
        ("torch.nn:Linear", "cannot be made without arguments on the meta device"),
        ("torch.nn:Nothing", "torch.nn has no Nothing"),
        (f"{tmp_path}/ends.py:Net", "ends.py: cannot be imported: SystemExit: 3"),
    ):
        done = CliRunner().invoke(estimate_memory.command, [source])
        assert done.exit_code == 2
        assert message in done.stderr
