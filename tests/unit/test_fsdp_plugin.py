"""`FullyShardedDataParallelPlugin`: what Accelerate's words mean, and which units they make."""

from __future__ import annotations

import os
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import fsdp
from torch.distributed.fsdp import wrap

from accelnb import Accelerator, AcceleratorState
from accelnb.errors import AccelnbError
from accelnb.training.parallel.fully_sharded.units import (
    find_units,
    ignored_parameters,
    outermost_units,
)
from accelnb.utils import FullyShardedDataParallelPlugin, patch_environment


@pytest.fixture(autouse=True)
def _no_launch(monkeypatch) -> None:
    for name in ("FSDP_VERSION", "FSDP_CPU_RAM_EFFICIENT_LOADING", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(name, raising=False)


def quiet(**options: Any) -> FullyShardedDataParallelPlugin:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return FullyShardedDataParallelPlugin(**options)


# ---- what is said ----


def test_nothing_said_is_fsdp2_and_says_nothing():
    plugin = quiet()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.auto_wrap_policy == "REPEATED_BLOCKS"
    assert plugin.state_dict_type == fsdp.StateDictType.SHARDED_STATE_DICT
    assert plugin.cpu_offload == fsdp.OffloadPolicy()
    assert plugin == quiet()


def test_version_1_runs_as_2_and_one_warning_says_what_changes():
    with pytest.warns(UserWarning, match="FullyShardedDataParallelPlugin: ") as said:
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=1,
            sharding_strategy="SHARD_GRAD_OP",
            backward_prefetch="BACKWARD_POST",
            use_orig_params=False,
            limit_all_gathers=False,
            state_dict_config=fsdp.FullStateDictConfig(offload_to_cpu=False),
            mixed_precision_policy=fsdp.MixedPrecision(torch.bfloat16, buffer_dtype=torch.bfloat16),
        )
    (line,) = (str(warning.message) for warning in said)
    for part in (
        "fsdp_version=1 runs as FSDP2",
        "SHARD_GRAD_OP is reshard_after_forward=False",
        "backward_prefetch: FSDP2 prefetches as BACKWARD_PRE does",
        "use_orig_params",
        "limit_all_gathers",
        "state_dict_config",
        "mixed_precision_policy: FSDP2 leaves buffers as they are",
    ):
        assert part in line
    assert "\n" not in line
    assert plugin.reshard_after_forward is False
    assert plugin.mixed_precision_policy == fsdp.MixedPrecisionPolicy(torch.bfloat16)


def test_what_has_no_effect_is_said():
    with pytest.warns(UserWarning, match="transformer_cls_names_to_wrap is for transformer_b"):
        FullyShardedDataParallelPlugin(
            auto_wrap_policy="no_wrap", transformer_cls_names_to_wrap=["Block"]
        )
    with pytest.warns(UserWarning, match="min_num_params is for size_based_wrap only"):
        FullyShardedDataParallelPlugin(auto_wrap_policy="no_wrap", min_num_params=10)


@pytest.mark.parametrize(
    ("strategy", "reshards", "replicas"),
    [
        ("FULL_SHARD", True, False),
        (fsdp.ShardingStrategy.SHARD_GRAD_OP, False, False),
        ("4", True, True),
        (5, False, True),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_strategies_of_version_1(strategy, reshards, replicas):
    plugin = FullyShardedDataParallelPlugin(fsdp_version=1, sharding_strategy=strategy)
    assert (plugin.reshard_after_forward, plugin.needs_replicas) == (reshards, replicas)


def test_what_launchers_set(monkeypatch):
    said = {
        "VERSION": "2",
        "SHARDING_STRATEGY": "FULL_SHARD",  # it is always set, and of version 1
        "RESHARD_AFTER_FORWARD": "false",
        "OFFLOAD_PARAMS": "true",
        "AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "TRANSFORMER_CLS_TO_WRAP": "Block,Other",
        "MIN_NUM_PARAMS": "1e8",
        "STATE_DICT_TYPE": "FULL_STATE_DICT",
        "USE_ORIG_PARAMS": "true",
        "SYNC_MODULE_STATES": "true",
        "FORWARD_PREFETCH": "true",
        "ACTIVATION_CHECKPOINTING": "true",
        "CPU_RAM_EFFICIENT_LOADING": "false",
        "IGNORED_MODULES": ".*head",
    }
    for name, value in said.items():
        monkeypatch.setenv(f"FSDP_{name}", value)
    plugin = quiet()
    assert plugin.reshard_after_forward is False
    assert plugin.cpu_offload == fsdp.CPUOffloadPolicy()
    assert plugin.transformer_cls_names_to_wrap == ["Block", "Other"]
    assert plugin.min_num_params == 10**8
    assert plugin.state_dict_config == fsdp.FullStateDictConfig(True, True)
    assert plugin.sync_module_states is plugin.forward_prefetch is True
    assert plugin.activation_checkpointing is True
    assert plugin.cpu_ram_efficient_loading is False
    assert plugin.ignored_modules == ".*head"
    assert quiet(reshard_after_forward=True, cpu_offload=False).reshard_after_forward is True


def test_what_transformers_is_told_is_not_for_the_next_accelerator():
    name = "FSDP_CPU_RAM_EFFICIENT_LOADING"
    with patch_environment(some="thing"):
        accelerator = Accelerator(fsdp_plugin=quiet(cpu_ram_efficient_loading=True))
        assert accelerator.state.fsdp_plugin is None  # there is one process
        assert os.environ[name] == "True"
        assert os.environ["ACCELERATE_USE_FSDP"] == "true"
        quiet(cpu_ram_efficient_loading=False)
        assert os.environ[name] == "False"
        Accelerator()
        assert not {name, "ACCELERATE_USE_FSDP"} & set(os.environ)
    AcceleratorState._reset_state(True)


def test_types_to_gather_and_reduce_in():
    bf16 = torch.bfloat16
    for given, wanted in (
        ("bf16", fsdp.MixedPrecisionPolicy(bf16, bf16, bf16)),
        ({"param_dtype": "bf16"}, fsdp.MixedPrecisionPolicy(bf16)),
        (fsdp.MixedPrecisionPolicy(bf16), fsdp.MixedPrecisionPolicy(bf16)),
    ):
        assert quiet(mixed_precision_policy=given).mixed_precision_policy == wanted
    plugin = quiet(mixed_precision_policy="bf16")
    plugin.set_mixed_precision("fp16")
    assert plugin.mixed_precision_policy.param_dtype == bf16
    plugin.set_mixed_precision("fp16", override=True)
    assert plugin.mixed_precision_policy.param_dtype == torch.float16


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"fsdp_version": 3}, "fsdp_version=3: it is 1 or 2"),
        ({"sharding_strategy": "NO_SHARD"}, "NO_SHARD shards nothing"),
        ({"sharding_strategy": "HALF"}, "sharding_strategy=HALF: choose one of FULL_SHARD"),
        ({"reshard_after_forward": "maybe"}, "reshard_after_forward=maybe: say true or false"),
        ({"backward_prefetch": "LATE"}, "backward_prefetch=LATE: choose one of BACKWARD_PRE"),
        ({"auto_wrap_policy": "by_hand"}, "auto_wrap_policy=by_hand: it is a callable or one of"),
        ({"min_num_params": "many"}, "min_num_params='many': give a number"),
        ({"state_dict_type": "LOCAL_STATE_DICT"}, "FSDP2 has SHARDED_STATE_DICT"),
        ({"mixed_precision_policy": "fp64"}, "mixed_precision_policy: fp64 is none of"),
        ({"mixed_precision_policy": {"dtype": "bf16"}}, "dtype is none of"),
        ({"activation_checkpointing_offload": True}, "which is off"),
        ({"use_orig_params": "perhaps"}, "use_orig_params=perhaps: say true or false"),
    ],
)
def test_a_wrong_value_is_one_line(options, line):
    with pytest.raises(AccelnbError, match=r"^[^\n]*$") as refused:
        FullyShardedDataParallelPlugin(**options)
    assert line in str(refused.value)


# ---- units ----


class Block(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, 2 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.layers = nn.ModuleDict({"all": nn.ModuleList([Block(), Block()])})
        self.attention = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 16, bias=False)


def named(model: nn.Module, **options: Any) -> list[Any]:
    names = {id(part): name for name, part in model.named_modules()}
    units = find_units(model, quiet(**options))
    return [tuple(names[id(part)] for part in unit) for unit in units]


def test_units_by_default_by_class_by_size_and_by_a_policy_of_torch():
    blocks = [("layers.all.0",), ("layers.all.1",)]
    assert named(Model()) == blocks
    assert named(Model(), auto_wrap_policy="NO_WRAP") == []
    by_class = named(Model(), transformer_cls_names_to_wrap=["Block", "Linear"])
    inner = [("layers.all.0.one",), ("layers.all.0.two",)]
    assert by_class[:3] == [*inner, blocks[0]] or by_class[:2] == inner
    assert by_class[-1] == ("head",)  # no part of the attention, which takes its weights itself
    by_size = named
    assert by_size(Model(), min_num_params=200) == [*blocks, ("attention",)]
    # A block whose large part is a unit has not enough parameters of its own.
    twos = [("layers.all.0.two",), ("layers.all.1.two",)]
    assert by_size(Model(), min_num_params=140) == [*twos, ("attention",)]
    policy = partial(wrap.transformer_auto_wrap_policy, transformer_layer_cls={Block})
    assert named(Model(), auto_wrap_policy=policy) == blocks


def test_a_model_says_itself_what_its_blocks_are():
    model = Model()
    model._no_split_modules = ["Block", "VisionBlock"]  # pyright: ignore
    outer = nn.ModuleDict({"base": model})
    assert named(outer, auto_wrap_policy="transformer_based_wrap") == [
        ("base.layers.all.0",),
        ("base.layers.all.1",),
    ]
    assert named(outer) == named(outer, auto_wrap_policy="transformer_based_wrap")
    plugin = quiet(auto_wrap_policy="transformer_based_wrap")
    plugin.set_auto_wrap_policy(model)
    assert isinstance(plugin.auto_wrap_policy, partial)
    assert len(find_units(model, plugin)) == 2


def test_lists_of_several_classes_are_blocks_and_experts_are_none():
    class Sparse(Block):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList([nn.Sequential(Block()), nn.Sequential(Block())])

    mixed = nn.ModuleDict({"layers": nn.ModuleList([Block(), Sparse()]), "experts": Sparse()})
    assert named(mixed) == [("layers.0",), ("layers.1",)]


def test_shared_weights_are_left_to_what_encloses_them():
    model = Model()
    model.head.weight = model.embed.weight
    classes = ["Block", "Linear", "Embedding"]
    assert not {("head",), ("embed",)} & set(named(model, transformer_cls_names_to_wrap=classes))
    one, two = model.layers["all"]  # pyright: ignore
    two.one = one.one
    assert named(model) == []
    same = nn.Sequential(nn.Embedding(4, 8), nn.Sequential(*[Block()] * 3))
    assert named(same) == [("1.0",)]  # one block, called three times


def test_what_trains_in_another_type_is_a_unit_of_its_own():
    model = Model().to(torch.bfloat16)
    block = model.layers["all"][0]  # pyright: ignore
    block.one.float()
    assert named(model) == [("layers.all.0.one",), ("layers.all.0",), ("layers.all.1",)]
    block.one.requires_grad_(False)
    assert named(model) == [("layers.all.0",), ("layers.all.1",)]
    block.gain = nn.Parameter(torch.ones(1))
    with pytest.raises(AccelnbError, match=r"layers\.all\.0\.gain \(torch\.float32\) differ from"):
        named(model)


def test_ignored_modules_are_named_or_given_and_scalars_stay_whole():
    model = Model()
    model.scale = nn.Parameter(torch.tensor(1.0))
    head = set(model.head.parameters())
    assert ignored_parameters(model, quiet(ignored_modules="h.*")) == {*head, model.scale}
    assert ignored_parameters(model, quiet(ignored_modules=[model.head])) == {*head, model.scale}
    with pytest.raises(AccelnbError, match="no module of this Model is so called"):
        ignored_parameters(model, quiet(ignored_modules="lm_head"))
    ignored = quiet(ignored_modules=r"layers\.all\.0")
    assert outermost_units(model, ignored) == [model.layers["all"][1]]  # pyright: ignore
