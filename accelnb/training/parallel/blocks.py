"""The blocks that a model repeats, as the layers of a transformer."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def repeated_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the blocks of all stacks of equal blocks in a module, not those within blocks."""
    if is_stack(module):
        yield from module.children()
        return
    for child in module.children():
        yield from repeated_blocks(child)


def is_stack(module: nn.Module) -> bool:
    """Return whether a module holds blocks of one class, and nothing else."""
    if not isinstance(module, nn.ModuleList | nn.Sequential):
        return False
    children = list(module.children())
    # Layers without parts, such as a list of nn.Linear, are no blocks.
    return len({type(child) for child in children}) == 1 and any(children[0].children())
