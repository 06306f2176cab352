"""Sequence parallelism: between the layers that are divided, each rank has parts of sequences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn
from torch.distributed.tensor import Shard
from torch.distributed.tensor.parallel import RowwiseParallel

from accelnb.errors import AccelnbError
from accelnb.training.parallel.blocks import is_stack
from accelnb.training.parallel.tensor_parallel.layer_plan import Style, is_norm
from accelnb.training.parallel.tensor_parallel.styles import SEQUENCE_DIM, SequenceParallelNorm


def parts_of_sequences(
    model: nn.Module, styles: Mapping[str, Style]
) -> tuple[dict[str, Style], list[tuple[nn.Module, nn.Module]]]:
    """Return the styles with which blocks compute on parts of sequences, and the stacks of those.

    A block's norms come first in each branch, as in most transformers: what they return goes to
    layers that are divided, whole. Of each stack its first and last block are returned.

    Raises
    ------
    AccelnbError
        The plan does not fit to that.
    """
    styles, stacks = dict(styles), []
    for stack, blocks in _stacks(model):
        inside = [name for name in styles if name.startswith(f"{stack}.")]
        if not inside:
            continue
        for name in inside:
            styles[name] = _within(name, styles[name])
        for name, layer in model.get_submodule(stack).named_modules(prefix=stack):
            if name in styles or not any(True for _ in layer.parameters(recurse=False)):
                continue
            if not is_norm(layer):
                raise AccelnbError(
                    f"sequence_parallel: {name} has weights and is not in the tensor-parallel "
                    "plan: add it"
                )
            styles[name] = SequenceParallelNorm()
        stacks.append((blocks[0], blocks[-1]))
    if not stacks:
        raise AccelnbError(
            "sequence_parallel: the tensor-parallel plan names no layer of repeated blocks (an "
            "nn.ModuleList of them)"
        )
    return styles, stacks


def _stacks(model: nn.Module) -> Iterator[tuple[str, list[nn.Module]]]:
    """Yield the stacks of equal blocks, not those within blocks."""
    within: list[str] = []
    for name, module in model.named_modules():
        if is_stack(module) and not any(name.startswith(f"{stack}.") for stack in within):
            within.append(name)
            yield name, list(module.children())


def _within(name: str, style: Style) -> Style:
    """Return the style of a layer whose input is whole, and which returns parts of sequences."""
    if style in ("rowwise", "rowwise_rep", "rowwise_split_input"):
        made = RowwiseParallel(output_layouts=Shard(SEQUENCE_DIM))
        return made
    if style in ("colwise", "replicated_with_grad_allreduce"):
        return style
    raise AccelnbError(
        f"sequence_parallel: {name} is {style!r} in the tensor-parallel plan: choose of colwise "
        "and rowwise in blocks, or leave sequence_parallel out and give all layouts as torch's "
        "styles"
    )
