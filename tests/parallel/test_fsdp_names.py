"""Sharding by hand, as libraries do with Accelerate's functions for it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from ranks import on_ranks

from accelnb import Accelerator, AccelnbError
from accelnb.training.fsdp_names import fsdp2_prepare_auto_wrap_policy
from accelnb.utils import (
    FullyShardedDataParallelPlugin,
    convert_model_to_fp8_ao,
    fsdp2_load_full_state_dict,
    fsdp2_prepare_model,
    get_module_children_bottom_up,
    has_ao_layers,
    model_has_dtensor,
)


def _model() -> torch.nn.Module:
    torch.manual_seed(0)
    blocks = [torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0) for _ in range(2)]
    return torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Sequential(*blocks))


def _a_reference() -> list[Any]:
    accelerator = Accelerator(fsdp_plugin=FullyShardedDataParallelPlugin())
    whole = _model().eval()
    data = torch.ones(2, 3, 16)
    trained = accelerator.prepare(_model())
    reference = fsdp2_prepare_model(accelerator, copy.deepcopy(whole)).eval()
    found = [model_has_dtensor(reference), len(accelerator._models), trained is not reference]
    with torch.no_grad():
        found.append(torch.equal(reference(data), whole(data)))
        others = {name: value + 1 for name, value in whole.state_dict().items()}
        given = others if accelerator.is_main_process else {}
        fsdp2_load_full_state_dict(accelerator, reference, given)
        whole.load_state_dict(others)
        found.append(torch.equal(reference(data), whole(data)))
    return found


def test_a_reference_model_is_sharded_beside_the_one_that_trains():
    assert on_ranks(_a_reference) == [[True, 1, True, True, True]] * 2


def test_nothing_is_sharded_where_the_accelerator_shards_nothing():
    with pytest.raises(AccelnbError, match="this Accelerator shards nothing: launch with"):
        fsdp2_prepare_model(Accelerator(), _model())


def test_units_are_those_that_would_be_sharded():
    model = _model()
    named = FullyShardedDataParallelPlugin(transformer_cls_names_to_wrap=["Linear"])
    for plugin, kind in (
        (FullyShardedDataParallelPlugin(), torch.nn.TransformerEncoderLayer),
        (named, torch.nn.Linear),
    ):
        is_unit = fsdp2_prepare_auto_wrap_policy(plugin, model)
        assert is_unit is not None
        units = [part for part in model.modules() if is_unit(part)]
        assert units
        assert all(isinstance(part, kind) for part in units)
    none = FullyShardedDataParallelPlugin(auto_wrap_policy="no_wrap")
    assert fsdp2_prepare_auto_wrap_policy(none, model) is None


def test_parts_come_after_what_is_within_them():
    model = _model()
    order = [name for name, _ in get_module_children_bottom_up(model, return_fqns=True)]
    assert order[-1] == ""
    for name in order[:-1]:
        assert order.index(name) < order.index(name.rpartition(".")[0])


def test_linear_layers_but_the_first_and_the_last_compute_in_fp8():
    config = pytest.importorskip("torchao.float8").Float8LinearConfig(emulate=True)
    model = torch.nn.Sequential(*(torch.nn.Linear(16, 16) for _ in range(3)))
    assert not has_ao_layers(model)
    convert_model_to_fp8_ao(model, config)
    kinds = [type(part).__name__ for part in model]
    assert kinds == ["Linear", "Float8Linear", "Linear"]
    assert has_ao_layers(model)
