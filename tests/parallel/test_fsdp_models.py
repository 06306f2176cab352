"""FSDP2 of models with tied, frozen and mixed weights, compiled, in precision; what it refuses."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest
import sharded_models
import torch
from ranks import on_ranks
from sharded_models import Net, batch, loss_of, made, outcome, plugin, same, train, units_of, whole
from torch import nn

from accelnb import Accelerator
from accelnb.errors import AccelnbError
from accelnb.utils import (
    DistributedDataParallelKwargs,
    TorchDynamoPlugin,
)

# The ranks cannot import it.
cloudpickle.register_pickle_by_value(sys.modules[sharded_models.__name__])


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
            found["units"] = [name for name in units_of(models[1]) if "blocks" not in name]
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
    lasting = Mixed()
    said(lambda: prepare(lasting, activation_checkpointing=True, cpu_ram_efficient_loading=True))
    assert not any(p.is_meta for p in lasting.parameters())
    assert "forward" not in vars(lasting.blocks[0])
    prepare(made(), cpu_ram_efficient_loading=False)
    return [
        said(lambda: prepare(Mixed())),
        said(lambda: prepare(nn.Sequential(nn.Embedding(4, 2, sparse=True)))),
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
        "FSDP: 0 has sparse gradients",
        "Could not find the transformer layer class T5Layer in the model",
        "name the classes of its units in transformer_cls_names_to_wrap",
        "ignored_modules='lm_head': no module of this Net is so called",
        "sharding_strategy=HYBRID_SHARD: it needs a mesh with copies",
        "comm_hook=fp16 compresses the gradients of DDP",
        "sharded in another way, which cannot be undone",
        "the model is sharded already",
        "cannot be copied",
        "join_uneven_inputs: with FSDP every process takes part",
    ]
    for lines in on_ranks(_refused):
        for line, part in zip(lines, expected, strict=True):
            assert part in line
            assert "\n" not in line
