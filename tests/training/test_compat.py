"""Code that was written for accelerate, run on accelnb by one import."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
        "accelnb.errors.AccelnbError: accelerate itself is imported already: in a new process, "
        "import accelnb.compat.accelerate before anything that imports accelerate"
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
