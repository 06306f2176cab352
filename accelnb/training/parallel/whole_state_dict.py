"""Whole weights given to a divided model by its own ``load_state_dict``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from accelnb.training.dtensors import is_dtensor, reshard
from accelnb.training.parallel.slices import like, local_part, own_slices


def take_whole_weights(model: nn.Module) -> None:
    """Have ``load_state_dict`` of a divided model take whole tensors too: of each, its part.

    Every process has to be given them.
    """
    model = getattr(model, "_orig_mod", model)
    model.register_load_state_dict_pre_hook(_divide)


@torch.no_grad()
def _divide(model: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    reshard(model)
    for name, tensor in model.named_parameters(remove_duplicate=False):
        given = state_dict.get(f"{prefix}{name}")
        if not isinstance(given, torch.Tensor) or is_dtensor(given) or not is_dtensor(tensor):
            continue
        if given.shape == tensor.shape and not tensor.is_meta:  # else torch says what is wrong
            part = given[own_slices(tensor)].to(local_part(tensor).device)
            state_dict[f"{prefix}{name}"] = like(tensor, part.contiguous())
