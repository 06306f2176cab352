"""FSDP2 trains as DDP does, to the bit, whatever of a model is sharded and how."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch import nn
from torch.nn import functional as F

from accelnb import Accelerator
from accelnb.errors import AccelnbError
from accelnb.training.enums import DistributedType
from accelnb.training.parallel.fsdp import sharded_parts
from accelnb.utils import (
    DistributedDataParallelKwargs,
    FullyShardedDataParallelPlugin,
    ParallelismConfig,
    TorchDynamoPlugin,
)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Net(nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 16)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(16, 32, bias=False)
        self.scale = nn.Parameter(torch.tensor(1.5))
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x) * self.scale

    @torch.no_grad()
    def generate(self, tokens: torch.Tensor) -> torch.Tensor:
        start = self.embed(tokens).sum()  # uses a weight before it calls the model
        for _ in range(3):
            tokens = torch.cat([tokens, self(tokens)[:, -1:].argmax(-1)], 1)
        return tokens + start.isnan()


def plugin(**options: Any) -> FullyShardedDataParallelPlugin:
    return FullyShardedDataParallelPlugin(**options)


def made(make: Callable[[], nn.Module] = Net) -> nn.Module:
    torch.manual_seed(torch.distributed.get_rank())  # equal only once they are prepared
    return make()


def batch(accelerator: Accelerator, step: int) -> torch.Tensor:
    tokens = torch.randint(0, 32, (8, 9), generator=torch.Generator().manual_seed(step))
    return tokens.chunk(accelerator.num_processes)[accelerator.process_index]


def loss_of(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def train(accelerator: Accelerator, model: nn.Module, steps: int = 3) -> list[float]:
    optimizer = accelerator.prepare_optimizer(torch.optim.AdamW(model.parameters(), 1e-2, eps=1e-4))
    losses = []
    for step in range(steps):
        with accelerator.accumulate(model):
            loss = loss_of(model, batch(accelerator, step))
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


def outcome(
    accelerator: Accelerator, make: Callable[[], nn.Module] = Net, steps: int = 3
) -> tuple[list[float], list[torch.Tensor]]:
    """Return losses and, after training, whole weights."""
    model = accelerator.prepare_model(made(make))
    losses = train(accelerator, model, steps)
    return losses, [whole(parameter) for parameter in model.parameters()]


def whole(parameter: Any) -> torch.Tensor:
    full_tensor = getattr(parameter, "full_tensor", None)
    return (parameter if full_tensor is None else full_tensor()).detach().clone()


def same(one: tuple[list[float], list[torch.Tensor]], other: Any) -> bool:
    weights = zip(one[1], other[1], strict=True)
    return one[0] == other[0] and all(torch.equal(a, b) for a, b in weights)


# ---- as DDP ----

PLUGINS: dict[str, dict[str, Any]] = {
    "default": {},
    "kept": {"reshard_after_forward": False},
    "whole": {"auto_wrap_policy": "no_wrap"},
    "by size": {"auto_wrap_policy": "size_based_wrap", "min_num_params": 500},
    "by name": {"transformer_cls_names_to_wrap": ["Block", "Embedding"]},
    "prefetched": {"forward_prefetch": True},
    "offloaded": {"cpu_offload": True},
    "ignored": {"ignored_modules": r"blocks\.1|head"},
    "checkpointed": {"activation_checkpointing": True},
    "on the CPU": {"activation_checkpointing": True, "activation_checkpointing_offload": True},
    "as it was": {"sync_module_states": True},
}


def _as_ddp() -> dict[str, bool]:
    ddp = outcome(Accelerator())
    found = {
        name: same(outcome(Accelerator(fsdp_plugin=plugin(**options))), ddp)
        for name, options in PLUGINS.items()
    }
    in_bf16 = outcome(Accelerator(mixed_precision="bf16"))
    fsdp = Accelerator(mixed_precision="bf16", fsdp_plugin=plugin())
    found["bf16"] = same(outcome(fsdp), in_bf16) and not same(in_bf16, ddp)
    steps = {"gradient_accumulation_steps": 2}
    twice = outcome(Accelerator(**steps), steps=4)
    sharded = Accelerator(**steps, fsdp_plugin=plugin(ignored_modules="head"))
    found["accumulated"] = same(outcome(sharded, steps=4), twice)
    return found


def test_every_way_to_shard_trains_as_ddp_to_the_bit():
    for found in on_ranks(_as_ddp):
        assert [name for name, equal in found.items() if not equal] == []


def _hybrid() -> dict[str, Any]:
    ddp = outcome(Accelerator())
    sizes = ParallelismConfig(dp_replicate_size=2, dp_shard_size=2)
    accelerator = Accelerator(
        parallelism_config=sizes, fsdp_plugin=plugin(ignored_modules="head", cpu_offload=True)
    )
    model = accelerator.prepare_model(made())
    again = Accelerator(
        parallelism_config=sizes, fsdp_plugin=plugin(ignored_modules="head", cpu_offload=True)
    )
    hsdp = train(accelerator, model), [whole(parameter) for parameter in model.parameters()]
    weight = model.blocks[0].up.weight
    return {
        "losses": abs(torch.tensor(ddp[0]) - torch.tensor(hsdp[0])).max().item(),
        "weights": max((a - b).abs().max().item() for a, b in zip(ddp[1], hsdp[1], strict=True)),
        "here": (tuple(weight.to_local().shape), str(weight.placements)),
        "type": accelerator.distributed_type,
        "is the same": again.prepare_model(model) is model,
    }


def test_weights_are_sharded_within_groups_that_hold_copies():
    for found in on_ranks(_hybrid, procs=4):
        assert found["losses"] < 1e-6
        assert found["weights"] < 1e-6
        assert found["here"] == ((16, 16), "(Replicate(), Shard(dim=0))")
        assert found["type"] == DistributedType.FSDP
        assert found["is the same"]


# ---- what is sharded, and when it is whole ----


def _units(model: nn.Module) -> list[str]:
    parts = {id(part) for part in sharded_parts(model)}
    return [name for name, part in model.named_modules() if id(part) in parts]


def _kept() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, options in PLUGINS.items():
        accelerator = Accelerator(fsdp_plugin=plugin(**options))
        model = accelerator.prepare_model(made())
        loss = loss_of(model, batch(accelerator, 0))
        block, head = model.blocks[0].up.weight, model.head.weight
        found[name] = {
            "units": _units(model),
            "block is whole after forward": not hasattr(block, "to_local"),
            "head is whole after forward": not hasattr(head, "to_local"),
        }
        loss.backward()
        with torch.no_grad():
            model(batch(accelerator, 1))
        found[name]["all are shards in the end"] = all(
            hasattr(p, "to_local") for n, p in model.named_parameters() if n != "scale"
        )
    return found


def test_units_are_gathered_as_the_plugin_says():
    found = on_ranks(_kept)[0]
    blocks = [f"blocks.{i}" for i in range(3)]
    assert found["default"]["units"] == ["", *blocks]
    assert found["whole"]["units"] == [""]
    linears = [f"{block}.{name}" for block in blocks for name in ("up", "down")]
    assert found["by size"]["units"] == ["", "embed", *linears, "head"]
    assert found["by name"]["units"] == ["", "embed", *blocks]
    assert found["ignored"]["units"] == ["", "blocks.0", "blocks.2"]
    whole_blocks = {name for name, of in found.items() if of["block is whole after forward"]}
    assert whole_blocks == {"kept", "whole"}
    assert found["default"]["head is whole after forward"]
    sharded = {name for name, of in found.items() if of["all are shards in the end"]}
    assert sharded == PLUGINS.keys() - {"ignored"}


# ---- weights of several kinds ----


class Tied(Net):
    def __init__(self) -> None:
        super().__init__(tied=True)


class Adapted(Net):
    """Frozen in bf16, but for norms that train in it and adapters that train in fp32."""

    def __init__(self) -> None:
        super().__init__()
        self.bfloat16().requires_grad_(False)
        for block in self.blocks:
            block.norm.requires_grad_(True)
            block.up = Adapter(block.up)


class Adapter(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base, self.a, self.b = base, nn.Linear(16, 2), nn.Linear(2, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.b(self.a(x.float())).to(x.dtype)


class Normed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(16)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.embed(tokens).transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x) * self.scale


def _kinds_of_weights() -> dict[str, Any]:
    found: dict[str, Any] = {}
    named = plugin(transformer_cls_names_to_wrap=["Block", "Embedding", "Linear"])
    for make in (Tied, Adapted, Normed):
        ddp, fsdp = Accelerator(), Accelerator(fsdp_plugin=named if make is Tied else plugin())
        models = [accelerator.prepare_model(made(make)) for accelerator in (ddp, fsdp)]
        losses = [train(a, model) for a, model in zip((ddp, fsdp), models, strict=True)]
        inner = models[0].module
        pairs = zip(inner.parameters(), models[1].parameters(), strict=True)
        same_weights = [torch.equal(whole(a), whole(b)) for a, b in pairs]
        found[make.__name__] = losses[0] == losses[1] and all(same_weights)
        if make is Tied:
            found["still tied"] = models[1].head.weight is models[1].embed.weight
            found["units"] = [name for name in _units(models[1]) if "blocks" not in name]
        if make is Normed:
            tokens = batch(ddp, 0)
            seen = [model.eval()(tokens) for model in models]
            found["running statistics"] = torch.equal(*seen)
    frozen = Accelerator(fsdp_plugin=plugin()).prepare_model(made().requires_grad_(False))
    tokens = torch.arange(8).unsqueeze(0)
    found["frozen"] = type(frozen).__name__, frozen(tokens).shape == (1, 8, 32)
    found["empty"] = Accelerator(fsdp_plugin=plugin()).prepare_model(nn.ReLU())(tokens).sum().item()
    return found


def test_tied_frozen_and_mixed_weights_train_as_with_ddp():
    for found in on_ranks(_kinds_of_weights):
        assert found == {
            "Tied": True,
            "still tied": True,
            "units": [""],
            "Adapted": True,
            "Normed": True,
            "running statistics": True,
            "frozen": ("FSDPNet", True),
            "empty": 28,
        }


# ---- precision, compilation, several passes ----


def _policy() -> dict[str, Any]:
    types = {"param_dtype": "bf16", "reduce_dtype": "fp32", "output_dtype": "fp32"}
    accelerator = Accelerator(fsdp_plugin=plugin(mixed_precision_policy=types))
    model, seen = made(), []
    model.blocks[0].up.register_forward_hook(lambda m, i, o: seen.append((m.weight.dtype, o.dtype)))
    model = accelerator.prepare_model(model)
    output = model(batch(accelerator, 0))
    output.sum().backward()
    weight = model.blocks[0].up.weight
    return {"seen": seen, "out": output.dtype, "kept": (weight.dtype, weight.grad.dtype)}


def _compiled() -> dict[str, bool]:
    found, ddp, names = {}, outcome(Accelerator(), steps=2), list(Net().state_dict())
    for checkpointed in (False, True):
        for regional in (False, True):
            torch._dynamo.reset()
            accelerator = Accelerator(
                fsdp_plugin=plugin(activation_checkpointing=checkpointed, ignored_modules="head"),
                dynamo_plugin=TorchDynamoPlugin(
                    backend="aot_eager", use_regional_compilation=regional
                ),
            )
            model = accelerator.prepare_model(made())
            losses = train(accelerator, model, 2)
            weights = [whole(parameter) for parameter in model.parameters()]
            equal = same((losses, weights), ddp) and list(model.state_dict()) == names
            found[f"checkpointed {checkpointed}, regional {regional}"] = equal
    return found


def _passes() -> dict[str, Any]:
    ddp, fsdp = Accelerator(), Accelerator(fsdp_plugin=plugin(ignored_modules="head"))
    one, two = (a.prepare_model(made()) for a in (ddp, fsdp))
    seen = []
    for accelerator, model in ((ddp, one), (fsdp, two)):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        tokens = [batch(accelerator, step) for step in range(4)]
        with accelerator.no_sync(model):
            loss_of(model, tokens[0]).backward()
            if accelerator is fsdp:
                local = next(iter(model.head.parameters())).grad.clone()
        loss_of(model, tokens[1]).backward()
        with torch.no_grad():
            loss_of(model, tokens[2])  # leaves no weights behind that the step makes old
        optimizer.step()
        optimizer.zero_grad()
        with accelerator.no_sync(model):
            loss = loss_of(model, tokens[3])
            with accelerator.trigger_sync_in_backward(model):
                loss.backward()
        seen.append(([loss.item()], [whole(p.grad) for p in model.parameters()]))
        optimizer.zero_grad()
    tokens = batch(fsdp, 5)[:, :4]
    made_up = two.generate(tokens)
    return {
        "equal": same(*seen),
        "local": local.flatten().tolist(),
        "generated": torch.equal(made_up, one.module.generate(tokens)),
        "still trains": same(
            (train(ddp, one), [whole(parameter) for parameter in one.parameters()]),
            (train(fsdp, two), [whole(parameter) for parameter in two.parameters()]),
        ),
        "unwrapped": fsdp.unwrap_model(two, keep_fp32_wrapper=False)(tokens).shape,
    }


def _several_ways() -> list[Any]:
    return [_policy(), _compiled(), _passes()]


def test_precision_compilation_accumulation_and_generate():
    of_ranks = on_ranks(_several_ways)
    for policy, compiled, passes in of_ranks:
        assert policy["seen"] == [(torch.bfloat16, torch.bfloat16)]
        assert policy["out"] == torch.float32
        assert policy["kept"] == (torch.float32, torch.float32)
        assert [name for name, equal in compiled.items() if not equal] == []
        assert passes["equal"]
        assert passes["generated"]
        assert passes["still trains"]
        assert passes["unwrapped"] == (4, 4, 32)
    first, second = (passes["local"] for *_, passes in of_ranks)
    assert first != second  # gradients of ignored modules stay local in no_sync


# ---- what cannot be ----


class Mixed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1].gain = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))


def _refused() -> list[str]:
    def said(action: Callable[[], Any]) -> str:
        try:
            return f"not refused: {action()}"
        except (AccelnbError, AssertionError) as error:
            return str(error)

    def prepare(model: nn.Module, **options: Any) -> nn.Module:
        return Accelerator(fsdp_plugin=plugin(**options)).prepare_model(model)

    model = prepare(made())
    with pytest.warns(UserWarning, match="HYBRID_SHARD is reshard_after_forward=True with dp_r"):
        hybrid = plugin(sharding_strategy="HYBRID_SHARD")
    hook = DistributedDataParallelKwargs(comm_hook="fp16")
    accelerator = Accelerator(fsdp_plugin=plugin())
    return [
        said(lambda: prepare(Mixed())),
        said(lambda: prepare(Net(), transformer_cls_names_to_wrap=["T5Layer"])),
        said(lambda: prepare(Net(), auto_wrap_policy="transformer_based_wrap")),
        said(lambda: prepare(Net(), ignored_modules="lm_head")),
        said(lambda: Accelerator(fsdp_plugin=hybrid).prepare(Net())),
        said(lambda: Accelerator(fsdp_plugin=plugin(), kwargs_handlers=[hook])),
        said(lambda: prepare(model, reshard_after_forward=False)),
        said(lambda: Accelerator().prepare(model)),
        said(lambda: copy.deepcopy(model)),
        said(lambda: accelerator.join_uneven_inputs([model], even_batches=False).__enter__()),
    ]


def test_what_cannot_be_is_refused_in_one_line():
    expected = [
        "blocks.1.gain (torch.bfloat16) differ from the torch.float32 of the rest of their Block",
        "Could not find the transformer layer class T5Layer in the model",
        "name the classes of its units in transformer_cls_names_to_wrap",
        "ignored_modules='lm_head': no module of this Net is so called",
        "sharding_strategy=HYBRID_SHARD: it needs a mesh with copies",
        "comm_hook=fp16 compresses the gradients of DDP",
        "sharded in another way, which cannot be undone",
        "the model is sharded already",
        "FSDP does not support deepcopy. Please use state dict",
        "join_uneven_inputs: with FSDP every process takes part",
    ]
    for lines in on_ranks(_refused):
        for line, part in zip(lines, expected, strict=True):
            assert part in line
            assert "\n" not in line
