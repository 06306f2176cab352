"""Values that are divided over the ranks: which of them can come to the notebook whole."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.utils import _pytree

from accelnb.devices.hardware.usable_resources import memory
from accelnb.devices.memory_size import in_words
from accelnb.errors import AccelnbError
from accelnb.options import environment
from accelnb.training.communication import all_gather_objects
from accelnb.training.parallel.strategy import is_sharded

_SAVE = "write it with accelerator.save_model(model, folder)"


def check(back: Mapping[str, Any], ranks: Collection[int]) -> None:
    """Refuse what cannot be put together on the ranks that take part, before they begin to.

    Parameters
    ----------
    back
        What is to come back: the cell's last value as ``result``, and variables.

    Raises
    ------
    AccelnbError
        One is a model with sharded weights, or together they are larger than the free memory.
    """
    if "torch.distributed.tensor" not in sys.modules:
        return
    for name, value in back.items():
        if isinstance(value, nn.Module) and is_sharded(value):
            raise AccelnbError(
                f"{named(name)} is a {type(value).__name__.removeprefix('FSDP')} whose weights are "
                "divided over the ranks, and stays there: bring "
                f"accelerator.get_state_dict(model) back, or {_SAVE}"
            )
    size = _size_of_sharded(back)
    if not size or len(ranks) < dist.get_world_size():
        return
    copies = environment.number("LOCAL_WORLD_SIZE", default=len(ranks))
    free = min(all_gather_objects(memory(Path("/")).free))
    if copies * size > free:
        names = ", ".join(map(named, back))
        raise AccelnbError(
            f"{names}: {in_words(size)} from each of {copies} ranks do not fit the "
            f"{in_words(free)} of memory that are free there: {_SAVE}"
        )


def named(name: str) -> str:
    """Return what a value that comes back is called."""
    return "the cell's last value" if name == "result" else f"the variable {name}"


def _size_of_sharded(back: Mapping[str, Any]) -> int:
    from torch.distributed.tensor import DTensor

    found = {id(part): part for part in _pytree.tree_leaves(dict(back))}
    return sum(
        part.numel() * part.element_size() for part in found.values() if isinstance(part, DTensor)
    )
