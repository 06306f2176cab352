"""Sharded models after the stop button: right gradients or one clear line, and new groups."""

from __future__ import annotations

import threading

import pytest
from harness import Notebook

pytestmark = pytest.mark.alone  # it presses the button while ranks are in the middle of a pass

SETUP = """%%distributed --procs 4 --strategy none
import os, signal, time, torch, torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, parallel
from accelnb import Accelerator

slow = ()

class Wait(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        if rank in slow:
            wait()
        return g

def wait():
    print("at work", flush=True)
    time.sleep(100)

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)
    def forward(self, x):
        return Wait.apply(x + self.down(torch.tanh(self.up(self.norm(x)))))

def model(kind):
    torch.manual_seed(0)
    made = nn.Sequential(Block(), Block(), nn.Linear(8, 3))
    if "tp" in kind:
        plan = {
            "up": parallel.ColwiseParallel(),
            "down": parallel.RowwiseParallel(output_layouts=Replicate()),
        }
        for block in made[:2]:
            parallel.parallelize_module(block, grid["tp"], plan)
    if "dp" in kind:
        mesh = {"hsdp": grid, "fsdp tp": grid["dp"]}.get(kind)
        for block in made[:2]:
            fully_shard(block, mesh=mesh)
        fully_shard(made, mesh=mesh)
    return made

def gradients(made):
    found = [p.grad for p in made.parameters()]
    return [g.full_tensor() if hasattr(g, "full_tensor") else g for g in found]

def differing(one, other):
    pairs = zip(gradients(one), gradients(other))
    return [i for i, (a, b) in enumerate(pairs) if a is None or not torch.equal(a, b)]

dist.new_group([0, 2])  # the user's own, before: the names of the mesh's groups are not the first
grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
accelerator = Accelerator(gradient_accumulation_steps=2)
x = torch.randn(4, 8, generator=torch.Generator().manual_seed(rank))
models = {kind: model(kind) for kind in ("fsdp", "hsdp", "fsdp tp", "tp")}
for made in models.values():
    (made(x) ** 2).sum().backward()
    made.zero_grad()
"""
CHECK = """%%distributed
made, fresh = models[{kind!r}], model({kind!r})
for one in (made, fresh):
    (one(x) ** 2).sum().backward()
print(differing(made, fresh), accelerator.step)
"""


@pytest.fixture(scope="module")
def four(shared_notebook: Notebook) -> Notebook:
    shared_notebook.run(SETUP, timeout=120)
    return shared_notebook


def stopped(notebook: Notebook, slow: str, cell: str) -> None:
    """Run a cell, and press the stop button once a rank is in the middle of it."""
    pressed = []

    def press(output):
        if "at work" in output.stdout and not pressed:
            pressed.append(threading.Timer(0.5, notebook.interrupt))
            pressed[0].start()

    code = f"%%distributed\nslow = {slow}\n{cell}"
    output = notebook.run(code, fails=True, timeout=60, on_output=press)
    assert "stopped ranks 0-3; variables are kept" in output.error


@pytest.mark.parametrize("kind", ["fsdp", "hsdp", "fsdp tp", "tp"])
@pytest.mark.parametrize("slow", ["(0, 1, 2, 3)", "(0,)"], ids=["all", "one"])
def test_gradients_after_a_stop_in_backward_are_those_of_a_fresh_model(four, kind, slow):
    # With one slow rank the others wait for it: their connections are cut, all groups are new.
    loss = f"(models[{kind!r}](x) ** 2).sum()"
    cell = f"with accelerator.accumulate(models[{kind!r}]): pass\n{loss}.backward()"
    stopped(four, slow if kind != "tp" else slow.replace("(0,)", "(0, 2)"), cell)
    told = four.run("%distributed slow = ()")
    assert "the gradients of sharded models, which may be half done, were dropped" in told.stderr
    assert four.run(CHECK.format(kind=kind)).said == {"[] 0"}


@pytest.mark.parametrize(
    "cell",
    [
        "hook = made[1].register_forward_hook(lambda *a: wait() if rank == 0 else None)\n"
        "try: made(x)\nfinally: hook.remove()",
        "(made(x) ** 2).sum().backward()\nif rank == 0: wait()\ndist.barrier()",
        "(made[2](x) if rank == 0 else made(x)).sum().backward()",
    ],
    ids=["forward", "after backward", "an error of one rank"],
)
def test_a_stop_anywhere_else_leaves_right_gradients_too(four, cell):
    if "made[2]" in cell:
        output = four.run(f"%%distributed\nmade = models['hsdp']\n{cell}", fails=True)
        assert "rank 0" in output.error
    else:
        stopped(four, "()", f"made = models['hsdp']\n{cell}")
    four.run("%distributed slow = ()")
    assert four.run(CHECK.format(kind="hsdp")).said == {"[] 0"}


def test_an_error_after_a_whole_backward_leaves_gradients_and_groups_alone(four):
    cell = "made = models['hsdp']\n(made(x) ** 2).sum().backward()\nworld = dist.group.WORLD\n1 / 0"
    four.run(f"%%distributed\n{cell}", fails=True)
    said = four.run(
        "%%distributed\nkept = {p.grad is not None for p in made.parameters()}\nmade.zero_grad()\n"
        "print(world is dist.group.WORLD, kept)"
    )
    assert said.said == {"True {True}"}


def test_a_model_that_was_half_sharded_is_refused(four):
    cell = """
half = model("none")
import torch.distributed.fsdp as fsdp
whole = fsdp.fully_shard
def sharded(module, **options):
    whole(module, **options)
    wait()
fsdp.fully_shard = sharded
from accelnb.utils import ParallelismConfig
own = Accelerator(parallelism_config=ParallelismConfig(dp_shard_size=4))
try:
    own.prepare(half)
finally:
    fsdp.fully_shard = whole
"""
    stopped(four, "()", cell)
    output = four.run("%distributed own.prepare(half)", fails=True)
    assert "AccelnbError: this model was cut short in an earlier prepare()" in output.error


def test_an_error_in_backward_that_the_cell_catches_is_repaired_at_once(four):
    cell = """%%distributed
def fail(grad): raise ValueError("of a hook")
fresh, made = model("fsdp"), accelerator.prepare(models["fsdp"])
for backward in (accelerator.backward, torch.Tensor.backward):
    middle = []
    hook = made[0].register_forward_hook(lambda *a: a[2].register_hook(fail) and None)
    try:
        backward((made(x) ** 2).sum())
    except ValueError:
        pass
    hook.remove()
    if backward is torch.Tensor.backward:  # found when the next one begins
        try:
            accelerator.backward((made(x) ** 2).sum())
        except Exception as error:
            print(type(error).__name__, error)
    fresh.zero_grad()
    for one in (made, fresh):
        accelerator.backward((one(x) ** 2).sum())
    print(differing(made, fresh))
    made.zero_grad()
"""
    first, said, second = four.run(cell).lines
    assert first == second == "[0-3] []"
    assert said.startswith("[0-3] AccelnbError an earlier backward pass of this model was cut")


def test_where_torch_has_no_repair_the_model_is_refused(four):
    cell = """%%distributed
def fail(grad): raise ValueError("of a hook")
from torch.distributed.fsdp import FSDPModule
repair = FSDPModule.reset_iter_state
del FSDPModule.reset_iter_state  # before torch 2.13
made = accelerator.prepare(model("fsdp"))
made[0].register_forward_hook(lambda *a: a[2].register_hook(fail) and None)
for _ in range(2):
    try:
        accelerator.backward((made(x) ** 2).sum())
    except Exception as error:
        print(error)
FSDPModule.reset_iter_state = repair
"""
    first, second = four.run(cell).lines
    assert first == "[0-3] of a hook"
    assert second.startswith("[0-3] a pass of this model was cut short, after which torch 2.")


def test_a_block_that_one_rank_leaves_out_is_named_when_nothing_moves(four):
    cell = """%%distributed --stall 3
class Root(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(fully_shard(Block()) for _ in range(2))
    def forward(self, x):
        for block in self.blocks[:1 if rank == 0 else 2]:
            x = block(x)
        return x

root = fully_shard(Root())
out = root(x)
if rank == 0:
    time.sleep(100)  # it goes on with something else
"""
    pressed = []

    def press(output):
        if "the stop button" in output.stderr and not pressed:
            pressed.append(threading.Timer(0.1, four.interrupt))
            pressed[0].start()

    output = four.run(cell, fails=True, timeout=60, on_output=press)
    assert "ranks 1-3 in all_gather: rank 0 did not come to it" in output.stderr
    assert ", line 8" in output.stderr  # block(x)


def test_a_model_with_a_lost_rank_says_so_in_one_line(four):
    four.run("%%distributed\nif rank == 3: os.kill(os.getpid(), signal.SIGKILL)", fails=True)
    for kind in ("fsdp", "hsdp", "fsdp tp"):
        cell = f"%%distributed --ranks 0\nmodels[{kind!r}](x)"
        output = four.run(cell, fails=True)
        assert "AccelnbError: this model is divided over a process group that ended" in output.error
    four.run(SETUP, timeout=120)  # equal meshes, on groups of other names
    for kind in ("fsdp tp", "tp"):
        assert four.run(CHECK.format(kind=kind)).said == {"[] 0"}
