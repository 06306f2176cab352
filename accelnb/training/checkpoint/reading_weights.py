"""A model's weights read from files of bounded size, one after the other."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.checkpoint import file_names
from accelnb.training.checkpoint.files import in_place, load_weights
from accelnb.training.checkpoint.parts import read_parts, read_parts_from_rank_0
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
from accelnb.training.state import PartialState


class OtherWeights(AccelnbError, ValueError):
    """The weights in files are not those of the model that they should be loaded into."""


@dataclass(frozen=True)
class WeightsFiles:
    """Files whose weights fit a model.

    Attributes
    ----------
    shapes : dict
        Of all weights in them, by name. None of what is no tensor.
    """

    files: list[Path]
    shapes: dict[str, Any]


def read_weights(
    model: nn.Module,
    checkpoint: str | os.PathLike[str],
    strict: bool = False,
    from_rank_0: bool = False,
) -> None:
    """Load weights into a model where it is; `accelnb.utils.load_checkpoint_in_model` is more.

    One tensor at a time is in memory. Of a model that is divided over processes all of them call
    it, and each reads its part alone. What has no values yet (on the meta device) gets memory.

    Parameters
    ----------
    from_rank_0
        Only rank 0 reads files, and sends each process what it needs. A collective.

    Raises
    ------
    AccelnbError
        There are no weights, they are damaged, or of another model. Nothing is changed then.
    """
    if from_rank_0 and PartialState().use_distributed:
        found = together(lambda: _only_on_rank_0(model, checkpoint, strict))
        read_parts_from_rank_0(model, found.files, of_every_rank(list(found.shapes))[0])
        return
    divided = is_sharded(model)
    if not divided:
        found = fitting_files(model, checkpoint, strict)
    else:
        found = together(lambda: fitting_files(model, checkpoint, strict))
        _refuse_other_files(checkpoint, found.files)
    if divided or without_values(model):
        read_parts(model, found.files, found.shapes)
        return
    for file in found.files:
        model.load_state_dict(without_scales(model, weights_in(file)), strict=False)


def fitting_files(
    model: nn.Module,
    checkpoint: str | os.PathLike[str],
    strict: bool = False,
    beside: tuple[str, ...] = (),
) -> WeightsFiles:
    """Return the files of a checkpoint, after a look at whether they fit a model.

    Names that end as those of `beside` belong to other weights: the model need not have them.

    Raises
    ------
    AccelnbError
        They do not. Names that are missing on either side are a warning unless `strict` is set.
    """
    files = files_of(Path(checkpoint).expanduser())
    shapes: dict[str, Any] = {}
    for file in files:
        shapes |= _shapes_in(file)
    own = {name: shape for name, shape in shapes.items() if not name.endswith(beside)}
    fatal, other = differences(model, own, strict)
    if fatal:
        raise OtherWeights(f"{checkpoint} is not of this {class_name(model)}: {fatal}")
    if other:
        warnings.warn(f"{checkpoint}: {other}", stacklevel=4)
    return WeightsFiles(files, shapes)


def _only_on_rank_0(model: nn.Module, checkpoint: Any, strict: bool) -> WeightsFiles:
    if PartialState().process_index:
        return WeightsFiles([], {})
    return fitting_files(model, checkpoint, strict)


def _refuse_other_files(checkpoint: Any, files: list[Path]) -> None:
    """Refuse parts of different models: where each machine has a folder of its own."""
    of_ranks = of_every_rank([(file.name, file.stat().st_size) for file in files])
    for rank, its in enumerate(of_ranks):
        if its != of_ranks[0]:
            raise AccelnbError(f"{checkpoint} holds other files on rank {rank} than on rank 0")


def _shapes_in(file: Path) -> dict[str, Any]:
    if file.suffix != ".safetensors":
        return shapes_of(weights_in(file))
    shapes, merged = shapes_in(file)
    return shapes | {name: shapes[kept] for name, kept in merged.items()}


def weights_in(file: Path) -> dict[str, Any]:
    """Return the state dict that a file of either format holds: mapped, read where it is used."""
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    return load_weights(file, **in_place(file))


def files_of(checkpoint: Path) -> list[Path]:
    """Return the files with the weights: of a folder, of an index, or the file itself.

    Raises
    ------
    AccelnbError
        There are none, or several indices to choose from.
    """
    if checkpoint.is_file():
        return _indexed(checkpoint) if checkpoint.suffix == ".json" else [checkpoint]
    for name in (file_names.MODEL, file_names.MODEL_PICKLED):
        if (checkpoint / name).is_file():
            return [checkpoint / name]
        if (checkpoint / (name + INDEX)).is_file():
            return _indexed(checkpoint / (name + INDEX))
    indices = sorted(checkpoint.glob(f"*{INDEX}"))
    if len(indices) > 1:
        raise AccelnbError(f"{checkpoint} holds several indices: give one of {indices}")
    if indices:
        return _indexed(indices[0])
    raise AccelnbError(
        f"{checkpoint} is no file and no folder with {file_names.MODEL}, "
        f"{file_names.MODEL_PICKLED} or the index of one"
    )


def _indexed(index: Path) -> list[Path]:
    try:
        read = json.loads(index.read_text())
        weight_map = read.get("weight_map", read)  # Accelerate's own tests write it bare
        return [index.parent / file for file in sorted(set(weight_map.values()))]
    except (ValueError, TypeError, AttributeError):
        raise AccelnbError(f"{index} is no index of weights") from None
