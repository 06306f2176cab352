"""Weights of 8 bits that wait on disk until their layer computes."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from accelnb.big_model.module_tensors import owner_of
from accelnb.big_model.offloaded_files import Index, offload_weight
from accelnb.big_model.placing import set_module_tensor_to_device


def quantize_and_offload_8bit(
    model: nn.Module,
    param: torch.Tensor,
    param_name: str,
    new_dtype: torch.dtype | None,
    offload_folder: str | os.PathLike[str],
    offload_index: Index | None,
    fp16_statistics: torch.Tensor | None = None,
) -> None:
    """Write a tensor of a model to a folder, and its scales if it is a weight of 8 bits.

    In the model it has no values then: hooks bring them (see `dispatch_model`).

    Parameters
    ----------
    param
        The tensor's values.
    new_dtype
        What they are converted to before they are quantized.
    offload_index
        Gets an entry for each file.
    fp16_statistics
        The scales of its rows, if it is quantized already.
    """
    if fp16_statistics is None:
        set_module_tensor_to_device(model, param_name, "cpu", value=param, dtype=new_dtype)
        owner, key = owner_of(model, param_name)
        held: Any = getattr(owner, key)
        param, fp16_statistics = held.data, getattr(held, "SCB", None)
    offload_weight(param, param_name, offload_folder, index=offload_index)
    if fp16_statistics is not None:
        scales = param_name.replace("weight", "SCB")
        offload_weight(fp16_statistics, scales, offload_folder, index=offload_index)
    set_module_tensor_to_device(
        model, param_name, "meta", value=torch.empty_like(param, device="meta"), dtype=new_dtype
    )
