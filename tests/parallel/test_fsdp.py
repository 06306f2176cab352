"""FSDP2 trains as DDP does, to the bit, in every way in which a model can be sharded."""

from __future__ import annotations

import sys
from typing import Any

import cloudpickle
import sharded_models
import torch
from ranks import on_ranks
from sharded_models import batch, loss_of, made, outcome, plugin, same, train, units_of, whole

from accelnb import Accelerator
from accelnb.training.enums import DistributedType
from accelnb.utils import (
    ParallelismConfig,
)

# The ranks cannot import it.
cloudpickle.register_pickle_by_value(sys.modules[sharded_models.__name__])


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
    close = abs(torch.tensor(outcome(fsdp)[0]) - torch.tensor(in_bf16[0])).max() < 5e-3
    found["bf16"] = bool(close) and not same(in_bf16, ddp)
    steps = {"gradient_accumulation_steps": 2}
    twice = outcome(Accelerator(**steps), steps=4)
    sharded = Accelerator(**steps, fsdp_plugin=plugin(ignored_modules="head"))
    found["accumulated"] = same(outcome(sharded, steps=4), twice)
    return found


def _copies_in_bf16() -> int:
    """Return the bytes of weights in 16 bits that are kept after the forward pass."""
    accelerator = Accelerator(mixed_precision="bf16", fsdp_plugin=plugin())
    model = accelerator.prepare_model(made())
    shapes = {whole(parameter).shape for parameter in model.blocks.parameters()}
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.bfloat16 and {tensor.shape, tensor.shape[::-1]} & shapes:
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.zeros(3, 5, dtype=torch.long))
    assert kept
    return sum(tensor.untyped_storage().size() for tensor in kept)


def test_in_bf16_no_rank_keeps_a_copy_of_all_weights_until_the_backward_pass():
    head = 2 * 16 * 32  # the root's, gathered until then
    assert on_ranks(_copies_in_bf16) == [head, head]


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


def _of_the_launch() -> tuple[str, str, str]:
    accelerator = Accelerator()
    weight = accelerator.prepare_model(made()).blocks[0].up.weight
    kept_whole = accelerator.prepare_model(made(), evaluation_mode=True)
    assert accelerator.state.fsdp_plugin == plugin()
    return str(accelerator.distributed_type), str(weight.placements), type(kept_whole).__name__


def test_a_launch_says_how_to_shard():
    fsdp = on_ranks(_of_the_launch, strategy="fsdp")
    assert fsdp == [("FSDP", "(Shard(dim=0),)", "Net")] * 2


# ---- what is sharded, and when it is whole ----


def _kept() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, options in PLUGINS.items():
        accelerator = Accelerator(fsdp_plugin=plugin(**options))
        model = accelerator.prepare_model(made())
        loss = loss_of(model, batch(accelerator, 0))
        block, head = model.blocks[0].up.weight, model.head.weight
        found[name] = {
            "units": units_of(model),
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


# ---- from where it begins ----


def _begun() -> dict[str, Any]:
    ddp, found = outcome(Accelerator()), {}
    for name, options in {
        "sent": {"ignored_modules": "head"},
        "read": {"ignored_modules": "head", "cpu_ram_efficient_loading": True},
    }.items():
        accelerator = Accelerator(fsdp_plugin=plugin(**options))
        with torch.device("cpu" if accelerator.is_main_process else "meta"):
            model = made()
        model = accelerator.prepare_model(model)
        losses = train(accelerator, model)
        found[name] = same((losses, [whole(parameter) for parameter in model.parameters()]), ddp)
    accelerator = Accelerator(fsdp_plugin=plugin(cpu_ram_efficient_loading=False))
    model = made()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, eps=1e-4)
    model, optimizer = accelerator.prepare(model, optimizer)
    block, x = model.blocks[1], torch.ones(2, 16)
    block(x).sum().backward()  # a part that is called first does not take itself for the model
    optimizer.zero_grad()
    losses = train(accelerator, model, optimizer=optimizer)
    found["before"] = same((losses, [whole(parameter) for parameter in model.parameters()]), ddp)
    model = accelerator.prepare_model(made())
    model(batch(accelerator, 0))  # leaves the embedding and the head gathered
    losses = train(accelerator, model)
    found["after a pass"] = same(
        (losses, [whole(parameter) for parameter in model.parameters()]), ddp
    )
    return found


def test_it_goes_on_from_rank_0s_weights_with_the_optimizer_there_was():
    for found in on_ranks(_begun):
        assert found == {"sent": True, "read": True, "before": True, "after a pass": True}
