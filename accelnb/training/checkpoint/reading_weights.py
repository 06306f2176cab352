"""A model's weights read from files of bounded size, one after the other."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.checkpoint import file_names
from accelnb.training.checkpoint.files import load_weights
from accelnb.training.checkpoint.parts import read_parts
from accelnb.training.checkpoint.weights import (
    differences,
    read_safetensors,
    shapes_in,
    shapes_of,
)
from accelnb.training.checkpoint.writing_weights import INDEX
from accelnb.training.collective_errors import of_every_rank, together
from accelnb.training.parallel.meta_start.without_values import without_values
from accelnb.training.parallel.slices import class_name
from accelnb.training.parallel.strategy import is_sharded
from accelnb.training.quantized import without_scales


def load_checkpoint_in_model(
    model: nn.Module, checkpoint: str | os.PathLike[str], strict: bool = False
) -> None:
    """Load the weights that `Accelerator.save_model` or Hugging Face's libraries saved.

    All are checked before the model is changed. One file at a time is in memory. Of a model that
    is divided over processes all of them call it, and each reads its part alone. What has no
    values yet (on the meta device) gets memory.

    Parameters
    ----------
    checkpoint
        A file, an index (``model.safetensors.index.json``), or a folder that holds one.
    strict
        Refuse weights that are missing or not in the model. Otherwise that is a warning.

    Raises
    ------
    AccelnbError
        There are no weights, they are damaged, or of another model.

    Examples
    --------
    >>> import tempfile, torch
    >>> from accelnb import Accelerator
    >>> from accelnb.utils import load_checkpoint_in_model
    >>> folder = tempfile.mkdtemp()
    >>> Accelerator().save_model(torch.nn.Linear(2, 1), folder)
    >>> load_checkpoint_in_model(torch.nn.Linear(2, 1), folder, strict=True)
    """
    divided = is_sharded(model)

    def checked() -> tuple[list[Path], dict[str, Any], str]:
        files = files_of(Path(checkpoint).expanduser())
        shapes: dict[str, Any] = {}
        for file in files:
            shapes |= _shapes_in(file)
        fatal, other = differences(model, shapes, strict)
        if fatal:
            raise AccelnbError(f"{checkpoint} is not of this {class_name(model)}: {fatal}")
        return files, shapes, other

    files, shapes, other = together(checked) if divided else checked()
    if divided:
        _refuse_other_files(checkpoint, files)
    if other:
        warnings.warn(f"{checkpoint}: {other}", stacklevel=2)
    if divided or without_values(model):
        read_parts(model, files, shapes)
        return
    for file in files:
        model.load_state_dict(without_scales(model, weights_in(file)), strict=False)


def _refuse_other_files(checkpoint: Any, files: list[Path]) -> None:
    """Refuse parts of different models: where each machine has a folder of its own."""
    of_ranks = of_every_rank([(file.name, file.stat().st_size) for file in files])
    for rank, its in enumerate(of_ranks):
        if its != of_ranks[0]:
            raise AccelnbError(f"{checkpoint} holds other files on rank {rank} than on rank 0")


def _shapes_in(file: Path) -> dict[str, Any]:
    if file.suffix != ".safetensors":
        return shapes_of(weights_in(file, "meta"))
    shapes, merged = shapes_in(file)
    return shapes | {name: shapes[kept] for name, kept in merged.items()}


def weights_in(file: Path, location: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the state dict that a file of either format holds."""
    if file.suffix == ".safetensors":
        return read_safetensors(file, location)
    return load_weights(file, map_location=location)


def files_of(checkpoint: Path) -> list[Path]:
    if checkpoint.is_file():
        return _indexed(checkpoint) if checkpoint.suffix == ".json" else [checkpoint]
    for name in (file_names.MODEL, file_names.MODEL_PICKLED):
        if (checkpoint / name).is_file():
            return [checkpoint / name]
        if (checkpoint / (name + INDEX)).is_file():
            return _indexed(checkpoint / (name + INDEX))
    raise AccelnbError(
        f"{checkpoint} is no file and no folder with {file_names.MODEL}, "
        f"{file_names.MODEL_PICKLED} or the index of one"
    )


def _indexed(index: Path) -> list[Path]:
    try:
        weight_map = json.loads(index.read_text())["weight_map"]
        return [index.parent / file for file in sorted(set(weight_map.values()))]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise AccelnbError(f"{index} is no index of weights") from None
