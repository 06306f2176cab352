"""Models without values (the meta device) and whole weights of divided ones."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from accelnb import Accelerator, AccelnbError
from accelnb.training.parallel.meta_start.from_rank_0 import take_from_rank_0
from accelnb.utils import (
    FullyShardedDataParallelPlugin,
    ParallelismConfig,
    TorchTensorParallelConfig,
    initialize_weights,
    load_checkpoint_in_model,
    summon_full_params,
)
from tests.ranks import on_ranks


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class Net(nn.Module):
    """Sizes that ranks do not divide evenly; a buffer in checkpoints and one that is not; ties."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(13, 6)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(6, 13)
        self.register_buffer("shift", torch.arange(13.0))
        self.register_buffer("scale", torch.full((), 0.5), persistent=False)
        if tied:
            self.head.weight = self.words.weight

    def reset_parameters(self) -> None:
        self.shift.copy_(torch.arange(13.0))
        self.scale.fill_(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.words(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x) * self.scale + self.shift


def net(tied: bool = False) -> Net:
    torch.manual_seed(0)
    return Net(tied)


def without_values(tied: bool = False) -> Net:
    with torch.device("meta"):
        return Net(tied)


def same(model: nn.Module, tied: bool) -> bool:
    """Return whether a divided model is `net` to the bit, tied as it is, and trains."""
    expected = net(tied)
    names = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
    if names != [name for name, _ in (*expected.named_parameters(), *expected.named_buffers())]:
        return False
    pairs = [
        *zip(model.parameters(), expected.parameters(), strict=True),
        *zip(model.buffers(), expected.buffers(), strict=True),
    ]
    F.cross_entropy(model(torch.arange(13)), torch.arange(13)).backward()
    trained = all(parameter.grad is not None for parameter in model.parameters())
    return trained and all(
        torch.equal(getattr(p, "full_tensor", lambda p=p: p)(), q) for p, q in pairs
    )


def said(action: Any) -> str:
    try:
        action()
    except AccelnbError as error:
        return str(error)
    return "nothing"


def filled(folders: dict[bool, str], tp: int = 1) -> dict[str, Any]:
    accelerator = Accelerator(parallelism_config=with_tensor_parallelism() if tp > 1 else None)
    first = accelerator.is_main_process
    found: dict[str, Any] = {}
    for tied, folder in folders.items():
        model = accelerator.prepare(net(tied) if first else without_values(tied))
        found[f"from rank 0, {tied=}"] = same(model, tied)

        model = without_values(tied)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)  # of parameters without values
        model, optimizer = accelerator.prepare(model, optimizer)
        found["said"] = said(lambda m=model: m(torch.arange(13)))
        load_checkpoint_in_model(model, folder)
        found["said of a buffer"] = said(lambda m=model: m(torch.arange(13)))
        initialize_weights(model)  # what is in no checkpoint
        found[f"from a folder, {tied=}"] = same(model, tied)
        before = model.head.bias.full_tensor()
        optimizer.step()
        found[f"trains, {tied=}"] = not torch.equal(before, model.head.bias.full_tensor())

        model = accelerator.prepare(without_values(tied))
        torch.manual_seed(0)
        initialize_weights(model)
        if not tied:  # two modules that are tied later draw twice when they are made
            found["drawn"] = same(model, tied)
            found["next random number"] = float(torch.rand(()))
    return found


def with_tensor_parallelism() -> ParallelismConfig:
    plan = {"blocks.*.up": "colwise", "blocks.*.down": "rowwise"}
    handler = TorchTensorParallelConfig(plan=plan)
    return ParallelismConfig(dp_shard_size=2, tp_size=2, tp_handler=handler)


def check_filled(results: list[dict[str, Any]]) -> None:
    net()
    following = float(torch.rand(()))
    for found in results:
        assert found.pop("next random number") == following
        lacking = found.pop("said")
        assert "no values for words.weight, blocks.0.up.weight, blocks.0.up.bias and" in lacking
        assert "load_checkpoint_in_model" in lacking
        assert "no values for scale (meta device)" in found.pop("said of a buffer")
        assert found == dict.fromkeys(found, True)
        assert len(found) == 7


def folders_in(path: Any) -> dict[bool, str]:
    for tied in (False, True):
        Accelerator().save_model(net(tied), path / str(tied), max_shard_size=500)
    return {tied: str(path / str(tied)) for tied in (False, True)}


def test_each_rank_gets_its_part_of_what_rank_0_has_a_folder_has_or_is_drawn(tmp_path):
    check_filled(on_ranks(filled, folders_in(tmp_path), procs=2, strategy="fsdp"))


def test_copies_of_shards_and_tensor_parallel_parts_are_filled_too(tmp_path):
    folders = folders_in(tmp_path)
    mesh = "dp_replicate=2,dp_shard=2"
    check_filled(on_ranks(filled, folders, procs=4, mesh=mesh, timeout=120))
    check_filled(on_ranks(filled, folders, 2, procs=4, timeout=120))


def sent_by_rank_0(folders: dict[bool, str]) -> dict[str, Any]:
    """Load what only rank 0 has, into divided models and whole ones, and what does not fit."""
    accelerator = Accelerator()
    found: dict[str, Any] = {}
    for tied, folder in folders.items():
        here = folder if accelerator.is_main_process else "/no/such"
        divided = accelerator.prepare(without_values(tied))
        whole = without_values(tied)
        for name, model in (("divided", divided), ("whole", whole)):
            load_checkpoint_in_model(model, here, strict=True, broadcast_from_rank0=True)
            initialize_weights(model)  # what is in no checkpoint
            found[f"{name}, {tied=}"] = same(model, tied)
    other, strict = nn.Linear(2, 2), {"strict": True, "broadcast_from_rank0": True}
    found["said"] = said(lambda: load_checkpoint_in_model(other, here, **strict))
    found["placed"] = said(lambda: load_checkpoint_in_model(divided, folder, {"": "cpu"}))
    return found


def test_rank_0_alone_can_have_the_files(tmp_path):
    for found in on_ranks(sent_by_rank_0, folders_in(tmp_path), strategy="fsdp"):
        assert "divided over processes" in found.pop("placed")
        assert "missing there: weight, bias" in found.pop("said")  # on both
        assert found == dict.fromkeys(found, True)
        assert len(found) == 4


def resumed(folder: str) -> tuple[bool, bool]:
    """Return whether a model without values resumes as the one that was saved goes on."""
    accelerator, words = Accelerator(), torch.arange(13)

    def started(model: Net) -> tuple[Any, Any]:
        return accelerator.prepare(model, torch.optim.AdamW(model.parameters(), eps=1e-4))

    def step(model: Any, optimizer: Any) -> None:
        F.cross_entropy(model(words), words).backward()
        optimizer.step()
        optimizer.zero_grad()

    model, optimizer = started(net(tied=True))
    step(model, optimizer)
    accelerator.save_state(folder)
    accelerator.free_memory()
    other, its_optimizer = started(without_values(tied=True))
    accelerator.load_state(folder)
    initialize_weights(other)  # a buffer that is in no checkpoint
    step(model, optimizer)
    step(other, its_optimizer)
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    equal = all(torch.equal(p.to_local(), q.to_local()) for p, q in pairs)
    return equal, other.head.weight is other.words.weight


def test_a_checkpoint_is_loaded_into_a_model_without_values(tmp_path):
    for equal, tied in on_ranks(resumed, str(tmp_path / "checkpoint"), strategy="fsdp"):
        assert equal
        assert tied


class Quantized(nn.Parameter):
    """Stands for parameters that are more than their values."""


def refused() -> dict[str, Any]:
    accelerator = Accelerator()
    first = accelerator.is_main_process
    found = {"other model": said(lambda: accelerator.prepare(net() if first else nn.Linear(2, 2)))}
    half = without_values()
    if not first:
        half.head = net().head
    found["values on rank 1"] = said(lambda: accelerator.prepare(half))

    odd = net() if first else without_values()
    odd.head.bias = Quantized(odd.head.bias.detach())
    found["quantized"] = said(lambda: accelerator.prepare(odd))

    model = net() if first else without_values()
    parameters = list(model.parameters())
    taken = take_from_rank_0(model)
    found["taken"] = all(parameter.is_meta for parameter in model.parameters())
    taken.put_back()  # as prepare does where a later step refuses the model
    found["put back"] = all(p is q for p, q in zip(parameters, model.parameters(), strict=True))

    model = accelerator.prepare(without_values())

    def but_for_heads(module: nn.Module) -> None:
        if module is not model.head:
            module.reset_parameters()

    def of_others(module: nn.Module) -> None:
        module.reset_parameters()
        if module is model:
            model.head.bias.zero_()

    found["left out"] = said(lambda: initialize_weights(model, but_for_heads))
    found["others"] = said(lambda: initialize_weights(model, of_others))
    found["still without"] = said(lambda: model(torch.arange(13)))
    found["no folder"] = said(lambda: load_checkpoint_in_model(model, "/no/such"))
    return found


def test_what_cannot_be_filled_is_refused_on_all_ranks():
    for found in on_ranks(refused, strategy="fsdp"):
        assert "rank 1's model is another one than rank 0's: words.weight" in found["other model"]
        assert "rank 1 has values for head.bias, head.weight" in found["values on rank 1"]
        assert "head.bias: rank 0 cannot send a Quantized" in found["quantized"]
        assert found["taken"]
        assert found["put back"]
        assert found["left out"] == (
            "head (Linear) cannot be initialized: it leaves weight, bias without values"
        )
        assert (
            "the model (Net) cannot be initialized: it uses tensors of other modules"
            in found["others"]
        )
        assert "head.weight" in found["still without"] or "shift" in found["still without"]
        assert "/no/such is no file" in found["no folder"]


# ---- whole weights ----


def summoned() -> dict[str, Any]:
    rank_0 = FullyShardedDataParallelPlugin(cpu_ram_efficient_loading=True)
    accelerator = Accelerator(fsdp_plugin=rank_0)
    first = accelerator.is_main_process
    torch.manual_seed(accelerator.process_index)
    model = accelerator.prepare(Net())
    found: dict[str, Any] = {}
    with summon_full_params(model):
        found["whole"] = [tuple(it.shape) for it in model.head.parameters()]
        found["rank 0's"] = model.head.bias.detach().clone()
        if first:
            model.head.bias.data.fill_(3)
    found["kept"] = model.head.bias.full_tensor().unique().tolist()
    with summon_full_params(model.head, writeback=False):
        model.head.bias.data.fill_(4)
        found["of others"] = type(model.words.weight).__name__
    with summon_full_params(model, rank0_only=True):
        found["whole here"] = type(model.head.bias).__name__
    found["not kept"] = model.head.bias.full_tensor().unique().tolist()

    def change_on_rank_1() -> None:
        with summon_full_params(model):
            if not first:
                model.head.bias.data.fill_(5)

    def fail_on_rank_1() -> None:
        with summon_full_params(model):
            model.head.bias.data.fill_(6)
            if not first:
                raise AccelnbError("no more")

    found["changed elsewhere"] = said(change_on_rank_1)
    found["failed"] = said(fail_on_rank_1)
    found["still"] = model.head.bias.full_tensor().unique().tolist()

    found["copy"] = said(lambda: copy.deepcopy(model))
    average = {name: value.clone() for name, value in model.state_dict().items()}
    with summon_full_params(model.head):
        model.head.bias.data.fill_(7)
    model.load_state_dict(average)
    found["average"] = model.head.bias.full_tensor().unique().tolist()
    return found


def test_weights_are_whole_for_a_while_and_rank_0s_changes_are_kept():
    results = on_ranks(summoned, strategy="fsdp")
    torch.manual_seed(0)
    initial = Net().head.bias
    for rank, found in enumerate(results):
        assert found["whole"] == [(13, 6), (13,)]
        assert torch.equal(found["rank 0's"], initial)
        assert found["kept"] == found["not kept"] == found["still"] == found["average"] == [3]
        assert found["of others"] == "DTensor"
        assert found["whole here"] == ("Parameter" if rank == 0 else "DTensor")
        assert (
            "rank 1 changed whole weights of Net that rank 0 did not: head.bias"
            in (found["changed elsewhere"])
        )
        assert "no more" in found["failed"]
        assert "cannot be copied: for an average" in found["copy"]
