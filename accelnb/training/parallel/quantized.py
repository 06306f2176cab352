"""Models with weights in few bits: where they can train, and how processes begin with the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from accelnb.errors import AccelnbError
from accelnb.training.parallel.fully_sharded.whole_parameters import make_equal
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.meta_start.fill import divides
from accelnb.training.parallel.meta_start.without_values import some
from accelnb.training.parallel.plan import Plan
from accelnb.training.quantized import (
    layers_of_4_bits,
    quantized_parameters,
    tensors_behind,
)


def check_quantized(model: nn.Module, mesh: Mesh, plan: Plan) -> None:
    """Refuse a model with weights in few bits where it cannot be prepared, before it is changed.

    Raises
    ------
    AccelnbError
        It lies elsewhere than it is to train, or would have to be divided.
    """
    quantized = quantized_parameters(model)
    if not quantized:
        return
    name, parameter = next(iter(quantized.items()))
    kind = f"this {type(model).__name__} has weights in few bits ({some(list(quantized))})"
    in_4_bits = all(hasattr(it, "quant_state") for it in quantized.values())
    if divides(mesh, plan) and (mesh.has("tp") or not in_4_bits):
        raise AccelnbError(
            f"{kind}, and only those of 4 bits (bitsandbytes) can be divided, by fsdp: choose "
            "strategy ddp, with which each process has them whole"
        )
    if plan.precision.kind == "fp8":
        raise AccelnbError(f"{kind}, beside which no others can be in fp8: choose precision bf16")
    places = set(getattr(model, "hf_device_map", {}).values())
    if not plan.evaluation_mode and (
        any(it.is_meta for it in quantized.values()) or "disk" in places
    ):
        raise AccelnbError(
            f"{kind}, and parts of it are offloaded: for training load it onto the device whole, "
            f"with device_map={{'': '{mesh.device}'}}"
        )
    there = parameter.device
    is_elsewhere = there.type != mesh.device.type or mesh.device.index not in (None, there.index)
    if plan.device_placement and is_elsewhere and not there.type == "meta":
        raise AccelnbError(
            f"{kind}: {name} is on {there} and cannot be moved to "
            f"{mesh.device}: load the model there, with device_map={{'': '{mesh.device}'}}"
        )


def share_quantized(model: nn.Module, group: Any) -> None:
    """Give the processes of a group the first one's weights in few bits, in the place of DDP.

    It would send only a part of what their values are made of.
    """
    quantized = quantized_parameters(model)
    if not quantized:
        return
    with torch.no_grad():
        for name, parameter in quantized.items():
            layer = model.get_submodule(name.rpartition(".")[0])
            for tensor in tensors_behind(parameter, layer):
                _send(tensor, group)
    ignored = {*getattr(model, "_ddp_params_and_buffers_to_ignore", ()), *quantized}
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ignored)


@contextmanager
def scales_kept(model: nn.Module, device_mesh: Any) -> Iterator[None]:
    """Have layers of 4 bits that are divided within a ``with`` block know what their values are.

    The scales are the first process's, and stay whole on all.
    """
    layers = layers_of_4_bits(model)
    for layer in layers:
        layer.state_dict()  # takes back what a forward pass has done to the weight for a CPU
        make_equal(tensors_behind(layer.weight, layer)[1:], device_mesh)
    yield
    for layer in layers:
        layer.register_state_dict_post_hook(_add_scales)
        # A forward pass would do that to a weight which is gathered anew for the next.
        layer.support_avx512bf16_for_cpu = False


def _add_scales(layer: Any, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Add to a state dict what the layer itself adds where its weight is whole."""
    scales = layer.quant_state.as_dict(packed=True)
    state.update((f"{prefix}weight.{name}", tensor) for name, tensor in scales.items())


def _send(tensor: torch.Tensor, group: Any) -> None:
    sent = tensor.detach().contiguous().reshape(-1).view(torch.uint8)  # not every type can be sent
    dist.broadcast(sent, group=group, group_src=0)
    if dist.get_rank(group):
        tensor.copy_(sent.view(tensor.dtype).view(tensor.shape))
