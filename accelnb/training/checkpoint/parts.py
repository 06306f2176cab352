"""A process's parts of a model's weights, read from whole ones in files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accelnb.training.checkpoint.files import in_place, load_weights
from accelnb.training.checkpoint.weights import opened, shapes_in
from accelnb.training.parallel.meta_start.without_values import allocate
from accelnb.training.parallel.slices import (
    buffer_on,
    local_part,
    own_slices,
    rows_at_once,
    send_from_rank_0,
)
from accelnb.training.state import PartialState


def read_parts(model: nn.Module, files: list[Path], names: Iterable[str]) -> None:
    """Read what a model holds of the weights in files: each process its part, block by block.

    Tensors without values (on the meta device) get memory for their parts; that of all first, or
    the heap gets holes.
    """
    own = _with_memory(model, names)
    for file in files:
        with tensors_in(file) as saved:
            for name in sorted(saved.keys() & own.keys()):
                _read(saved[name], own[name])


def read_parts_from_rank_0(model: nn.Module, files: list[Path], names: list[str]) -> None:
    """Have rank 0 read weights from files, and send each process what it holds of them.

    A collective. All have the same names; files are those of rank 0.
    """
    own = _with_memory(model, names)
    buffer = buffer_on(PartialState().device)
    with ExitStack() as opened_files:
        saved: dict[str, Any] = {}
        for file in files:
            saved |= opened_files.enter_context(tensors_in(file))
        for name in names:
            if name in own:
                whole = saved[name][...] if saved else None
                send_from_rank_0(whole, own[name], buffer)


def _with_memory(model: nn.Module, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return a model's tensors, after those of the names got memory where they had none."""
    own = _tensors_of(model)
    allocate(model, [own[name] for name in names if name in own], PartialState().device)
    return _tensors_of(model)  # buffers are other objects with memory


def _tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's parameters and buffers by all their names."""
    parameters = model.named_parameters(remove_duplicate=False)
    return dict(parameters) | dict(model.named_buffers(remove_duplicate=False))


@torch.no_grad()
def _read(saved: Any, tensor: torch.Tensor) -> None:
    part = local_part(tensor)
    if not tensor.ndim:
        part.copy_(saved[...])
        return
    rows, *columns = own_slices(tensor)
    for block in rows_at_once(tuple(part.shape), part.element_size()):
        there = slice(rows.start + block.start, rows.start + block.stop)
        part[block].copy_(saved[(there, *columns)])


@contextmanager
def tensors_in(file: Path) -> Iterator[dict[str, Any]]:
    """Yield what is in a file by name. Of a tensor only what is sliced is read."""
    if file.suffix != ".safetensors":
        yield load_weights(file, **in_place(file))
        return
    _, merged = shapes_in(file)
    with opened(file) as tensors:
        yield {
            **{name: tensors.get_slice(name) for name in list(tensors.keys())},
            **{name: tensors.get_slice(kept) for name, kept in merged.items()},
        }
