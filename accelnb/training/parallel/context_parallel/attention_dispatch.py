"""In which attention a process computes by which way: the one place where torch is told.

Torch's operator is replaced below ``torch.nn.functional``, so that it does not matter how a model
came by the function. It does so only in a block, and in the backward pass of what was computed in
one: activations that are computed again there are of the same parts.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from accelnb.errors import AccelnbError
from accelnb.training.parallel.context_parallel.compiled_attention import graphs_of_their_own
from accelnb.training.parallel.context_parallel.gathered_attention import Attention

# How attention is computed in a block.
Compute = Callable[[Attention], torch.Tensor]

# Backward passes are known for the forward passes of so many blocks.
_REMEMBERED = 1000


class _Block:
    """A block in which attention is computed another way."""

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        self.first_node = _next_node()
        self.end_node: int | None = None
        self.calls = 0
        self.model: str | None = None


_blocks: list[_Block] = []  # in the order of their nodes; the last one may be open
_forgotten = 0  # the end of the last block that is not known any more
_traced = False  # whether attention of a block was compiled
_registered: dict[str, torch.library.Library] = {}


@contextmanager
def attention_computed_by(compute: Compute, device_type: str, name: str) -> Iterator[None]:
    """Compute all attention of the block another way, its recomputation in backward too.

    Parameters
    ----------
    compute
        Does it.
    device_type
        Of what is computed.
    name
        Describes `compute`: equal ones do the same.

    Raises
    ------
    AccelnbError
        One block is within another, or a model ran in it that computed no attention by torch's
        function. That is raised at the end.
    """
    check_not_in_block()
    intercept_attention(device_type)
    block = _Block(compute)
    _remember(block)
    try:
        with _watched_models(block), _without_fast_path(), graphs_of_their_own(name):
            yield
    finally:
        block.end_node = _next_node()
    if block.model is not None and not block.calls and not _traced:
        raise AccelnbError(
            f"context parallel: {block.model} ran, but no attention by "
            "torch.nn.functional.scaled_dot_product_attention was seen, so its results are of a "
            "part of the sequence only: use that function (attn_implementation='sdpa', "
            "need_weights=False)"
        )


def intercept_attention(device_type: str) -> None:
    """Have torch's operator ask here, on a kind of device, from now on.

    Without a block it computes what it computed before. Do it before models are compiled: what
    was traced before does not ask.
    """
    if device_type in _registered:
        return
    key = torch._C._dispatch_key_for_device(device_type)
    library = torch.library.Library("aten", "IMPL")
    for name in (f"Autograd{key}", key):  # without autograd: in inference mode
        library.impl("scaled_dot_product_attention", _scaled_dot_product_attention, name)
    _registered[device_type] = library


def _scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    global _traced
    attention = Attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    block = _block_of_now()
    if block is None:
        return attention.computed()
    block.calls += 1
    _traced |= attention.is_traced  # its graph is run without a call of this
    return block.compute(attention)


def _block_of_now() -> _Block | None:
    """Return the block that what is computed now belongs to.

    A backward pass may be in another thread, of any earlier forward pass: there the node of the
    graph tells, by its number. They are numbered in the order in which they were made.
    """
    if torch._C._current_graph_task_id() == -1:
        return _open_block()
    node: Any = torch._C._current_autograd_node()
    if node is None:  # after the last one
        return _open_block()
    number = node._sequence_nr()
    if number < _forgotten:
        raise AccelnbError(
            f"context parallel: a backward pass of a forward pass of {_REMEMBERED} blocks ago"
        )
    at = bisect.bisect_right(_blocks, number, key=lambda block: block.first_node) - 1
    if at < 0:
        return None
    block = _blocks[at]
    if block.end_node is not None and number >= block.end_node:
        return None
    if node.name() == "CheckpointFunctionBackward" and not torch.is_grad_enabled():
        # The nodes of the inner one are made in this backward pass: they would tell nothing.
        raise AccelnbError(
            "context parallel: a checkpoint within a checkpoint: give use_reentrant=False to both"
        )
    return block


def check_not_in_block() -> None:
    """Refuse a block within another."""
    if is_in_block():
        raise AccelnbError("maybe_context_parallel: it is active already, do not nest it")


def is_in_block() -> bool:
    """Return whether the caller is in a block of `attention_computed_by`."""
    return _open_block() is not None


def _open_block() -> _Block | None:
    return _blocks[-1] if _blocks and _blocks[-1].end_node is None else None


def _remember(block: _Block) -> None:
    global _forgotten
    if _blocks and block.first_node < (_blocks[-1].end_node or 0):  # numbers of another thread
        _blocks.clear()
        _forgotten = 0
    _blocks.append(block)
    if len(_blocks) > _REMEMBERED:
        _forgotten = _blocks.pop(0).end_node or 0


def _next_node() -> int:
    """Return the number of the next node of a graph that this thread makes."""
    return torch._C._autograd._get_sequence_nr()  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def _watched_models(block: _Block) -> Iterator[None]:
    """Note the first module with parameters that is called."""

    def note(module: nn.Module, args: Any) -> None:
        if torch._C._current_graph_task_id() != -1:
            return  # computed again, for a forward pass of any block
        if next(module.parameters(), None) is not None:
            block.model = type(module).__name__
            handle.remove()  # the others cost nothing

    handle = register_module_forward_pre_hook(note)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Have torch's own transformer layers call the function in evaluation too."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
