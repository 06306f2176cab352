"""Attention of a block under ``torch.compile``: its graphs are for such blocks alone."""

from __future__ import annotations

import functools
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


def graphs_of_their_own(block: str) -> AbstractContextManager[Any]:
    """Return a context in which torch.compile makes graphs for a kind of block.

    It costs a call for each function of torch, so it does nothing where nothing is compiled.

    Parameters
    ----------
    block
        Describes all that is fixed in a graph: another description, another graph.
    """
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    _keep_in_graphs()
    return _Marking(block)


class _Marking(TorchFunctionMode):
    """Graphs depend on the modes in which they were traced, and keep what a mode calls."""

    def __init__(self, block: str) -> None:
        super().__init__()
        self.block = block

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is scaled_dot_product_attention:
            return _attention_of(self.block, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attention_of(block: str, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Compute attention. What torch keeps on disk of compiled graphs is found by `block` too."""
    return scaled_dot_product_attention(*args, **kwargs)


@functools.cache
def _keep_in_graphs() -> None:
    torch.compiler.allow_in_graph(_attention_of)  # imports torch._dynamo
