"""Code that was written for accelerate, run on accelnb by one import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import accelnb

NOT_INSTALLED = """
import sys
class Blocked:
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "accelerate":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
try:
    import accelerate
except ModuleNotFoundError:
    print("not installed")
"""

NOT_FOUND = """
import importlib.machinery, sys
find = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = lambda name, *rest: (
    None if name == "accelerate" else find(name, *rest)
)
"""

TRAINING = """
import accelnb.compat.accelerate

# ---- unchanged from here on ----
import accelerate
import torch
from accelerate import Accelerator, DistributedType
from accelerate.data_loader import DataLoaderShard, skip_first_batches
from accelerate.local_sgd import LocalSGD
from accelerate.logging import get_logger
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.scheduler import AcceleratedScheduler
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import ProjectConfiguration, set_seed, tqdm
from accelerate.utils.dataclasses import DataLoaderConfiguration
from accelerate.utils.operations import gather, send_to_device
from accelerate.utils.random import synchronize_rng_states
import accelerate.utils.tqdm

assert tuple(map(int, accelerate.__version__.split(".")[:2])) >= (1, 0)
logger = get_logger(__name__, log_level="INFO")
set_seed(0)
accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(split_batches=True))
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(8, 2)), 4)
model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
assert isinstance(optimizer, AcceleratedOptimizer)
assert isinstance(scheduler, AcceleratedScheduler)
for (batch,) in tqdm(loader, disable=True):
    loss = model(batch).square().mean()
    accelerator.backward(loss)
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
assert accelerate.utils.tqdm is tqdm
assert accelerate.state.PartialState is PartialState
assert accelerator.distributed_type == DistributedType.NO
assert PartialState._shared_state
AcceleratorState._reset_state(reset_partial_state=True)
GradientState._reset_state()
assert not PartialState._shared_state
# ---- to here ----

real = [m for m in list(sys.modules.values()) if "site-packages/accelerate/" in
        str(getattr(m, "__file__", ""))]
assert not real, real
assert Accelerator.__module__.startswith("accelnb.")
print("trained")
"""


def _python(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100
    )
    return done.stdout + done.stderr.strip().rpartition("\n")[2]


@pytest.mark.parametrize("before", ["import sys", NOT_INSTALLED], ids=["installed", "missing"])
def test_third_party_code_runs_unchanged_whether_accelerate_is_installed_or_not(before):
    said = "not installed\n" if before is NOT_INSTALLED else ""
    assert _python(before + TRAINING) == f"{said}trained\n"


def test_the_import_has_to_come_before_that_of_accelerate_itself():
    # A module of that name stands for accelerate, whose import takes seconds.
    program = "import sys, types; sys.modules['accelerate'] = types.ModuleType('accelerate')\n"
    assert _python(program + "import accelnb.compat.accelerate") == (
        "accelnb.errors.AccelnbError: accelerate itself is imported already: in a new process (for "
        "ranks, %accelnb restart), import accelnb.compat.accelerate before anything that imports "
        "accelerate"
    )


MISSING = """
import accelnb.compat.accelerate, importlib
for line in (
    "from accelerate import no_such_name",
    "from accelerate.state import no_such_name",
    "import accelerate.utils.no_such_module",
):
    try:
        exec(line)
    except ImportError as error:
        print(error)
import accelerate.state
print(hasattr(accelerate.state, "no_such_name"), getattr(accelerate, "no_such_name", "default"))

# Every module that stands for one of accelerate finds what it stands for.
for name in accelnb.compat.accelerate._HOMES:
    assert [n for n in dir(importlib.import_module(name)) if n[0] != "_"], name
namespace = {}
exec("from accelerate.utils import *", namespace)
print(namespace["set_seed"].__module__)
"""


def test_what_accelnb_lacks_is_an_import_error_that_says_so():
    assert _python(MISSING).splitlines() == [
        "accelnb has no accelerate.no_such_name: see docs/parity.md",
        "accelnb has no accelerate.state.no_such_name: see docs/parity.md",
        "accelnb has no accelerate.utils.no_such_module: see docs/parity.md",
        "False default",
        "accelnb.training.rng",
    ]


INSTALLED = """
import importlib.metadata as metadata, importlib.util
def seen():
    found = importlib.util.find_spec("accelerate") is not None
    named = [d.version for d in metadata.distributions() if d.name == "accelerate"]
    try:
        return found, metadata.version("Accelerate"), named[0]
    except metadata.PackageNotFoundError:
        return found, None, *named
print(seen())
import accelnb.compat.accelerate
print(seen())
print(metadata.metadata("accelerate")["Home-page"], metadata.files("accelerate"))
print(metadata.packages_distributions()["accelerate"])
print([d.name for d in metadata.distributions(path=["."])])
from accelnb.utils import compare_versions, is_package_available
print(is_package_available("accelerate"), compare_versions("accelerate", ">=", "1.15"))
"""


def test_libraries_are_told_that_accelerate_is_installed_where_it_is_not(tmp_path):
    for there in Path(torch.__file__).parents[1].iterdir():
        if not there.name.startswith(("accelerate", "__editable__")):
            (tmp_path / there.name).symlink_to(there)
    done = subprocess.run(
        [sys.executable, "-S", "-c", INSTALLED],  # no packages but those
        env=os.environ | {"PYTHONPATH": f"{Path(accelnb.__file__).parents[1]}:{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout.splitlines() == [
        "(False, None)",
        "(True, '1.15.0', '1.15.0')",
        "https://github.com/huggingface/accelerate None",
        "['accelerate']",
        "[]",
        "True True",
    ], done.stderr


THEIRS = """
import accelerate, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor

class Data:
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return accelerate.utils.set_seed.__module__

if __name__ == "__main__":
    from torch.utils.data import DataLoader
    from theirs import Data
    print(sys.argv[1:], accelerate.utils.set_seed.__module__)
    loader = DataLoader(Data(), num_workers=1, multiprocessing_context="spawn")
    print(next(iter(loader)))
"""


@pytest.mark.parametrize("target", [("theirs.py",), ("-m", "theirs")], ids=["script", "module"])
def test_an_unchanged_script_and_what_it_spawns_run_on_accelnb(tmp_path, target):
    (tmp_path / "theirs.py").write_text(THEIRS)
    done = subprocess.run(
        [sys.executable, "-m", "accelnb.compat", *target, "--lr", "0.1"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(Path(accelnb.__file__).parents[1])},
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "['--lr', '0.1'] accelnb.training.rng",
        "['accelnb.training.rng']",
    ], done.stderr


LAUNCHING = """
import accelnb.compat.accelerate
from accelerate.commands.launch import launch_command, launch_command_parser
given = {arguments!r}
launch_command(launch_command_parser().parse_args(given))
print("launched")
"""
TRAINS = """
import sys
from accelerate import Accelerator
accelerator = Accelerator()
print(accelerator.process_index, type(accelerator).__module__, accelerator.mixed_precision,
      accelerator.distributed_type, accelerator.state.fsdp_plugin.reshard_after_forward,
      sys.argv[1:])
accelerator.end_training()
"""


def test_programs_that_launch_as_accelerate_does_start_accelnbs_ranks(tmp_path):
    script, config = tmp_path / "train.py", tmp_path / "config.yaml"
    script.write_text(TRAINS)
    config.write_text("distributed_type: FSDP\nnum_processes: 4\nmixed_precision: fp16\n")
    arguments = ["--config_file", str(config), "--num-processes", "2", "--mixed_precision", "bf16"]
    arguments += ["--cpu", "--fsdp_reshard_after_forward", "false", str(script), "--lr", "1"]
    done = _python(LAUNCHING.format(arguments=arguments)).splitlines()
    of_rank = "{} accelnb.training.accelerator bf16 FSDP False ['--lr', '1']"
    assert sorted(done[:2]) == [of_rank.format(0), of_rank.format(1)]
    assert done[2] == "launched"


def test_what_would_go_unnoticed_is_warned_of():
    replaced = _python(
        "import accelnb.compat.accelerate, accelerate.utils.fsdp_utils as theirs\n"
        "import warnings; warnings.simplefilter('error')\n"
        "theirs.something_of_its_own = 1\n"
        "theirs.fsdp2_prepare_model = None"
    )
    assert replaced == (
        "UserWarning: accelerate.utils.fsdp_utils.fsdp2_prepare_model is replaced for those who "
        "take it from there; accelnb itself goes on with its own"
    )
    late = _python(
        f"{NOT_FOUND}\nimport types; sys.modules['transformers'] = types.ModuleType('transformers')"
        "\nimport warnings; warnings.simplefilter('error')\nimport accelnb.compat.accelerate"
    )
    assert late == (
        "UserWarning: transformers found no accelerate when imported, and will not look again: in "
        "a new process, import accelnb.compat.accelerate first"
    )
