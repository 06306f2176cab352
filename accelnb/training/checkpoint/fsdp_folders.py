"""Weights and optimizer states of sharded models in the folders that Accelerate puts them into.

`Accelerator.save_state` saves a whole training at once, and in its place as a whole; these are
for code that calls Accelerate's functions.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training import constants
from accelnb.training.checkpoint import file_names, parameter_names
from accelnb.training.checkpoint.applying import load_weights_into
from accelnb.training.checkpoint.contents import kind_of, parts_of
from accelnb.training.checkpoint.dtensors import gathered, mapped
from accelnb.training.checkpoint.files import in_place, load, replace_file, write_pickled
from accelnb.training.checkpoint.reading import check_optimizer
from accelnb.training.checkpoint.reading_parts import skeleton, with_parts_of_optimizer
from accelnb.training.checkpoint.weights import differences, unwrapped
from accelnb.training.checkpoint.weights_sources import Source
from accelnb.training.collective_errors import of_every_rank, together
from accelnb.training.parallel.slices import class_name
from accelnb.training.state import PartialState

_Path = str | os.PathLike[str]


def save_fsdp_model(
    fsdp_plugin: Any,
    accelerator: Any,
    model: nn.Module,
    output_dir: _Path,
    model_index: int = 0,
    adapter_only: bool = False,
    use_dcp: bool = True,
) -> None:
    """Save a model's weights: each rank its parts, in ``pytorch_model_fsdp_0``. A collective.

    Parameters
    ----------
    fsdp_plugin
        With ``FULL_STATE_DICT`` rank 0 writes them whole, into ``pytorch_model_fsdp.bin``.
    adapter_only
        Of a model of peft, the adapter alone.
    """
    _refuse_files_of_ranks(use_dcp)
    state = _weights(model, adapter_only)
    if _is_whole(fsdp_plugin):
        _write_whole(state, _model_file(output_dir, model_index))
    else:
        _write_parts({"model": state}, file_names.model_folder(Path(output_dir), model_index))


def load_fsdp_model(
    fsdp_plugin: Any,
    accelerator: Any,
    model: nn.Module,
    input_dir: _Path,
    model_index: int = 0,
    adapter_only: bool = False,
    use_dcp: bool = True,
) -> None:
    """Load what `save_fsdp_model` saved, here or in Accelerate, into any division. A collective.

    Raises
    ------
    AccelnbError
        It is missing, damaged, or of another model. Nothing has changed then.
    """
    _refuse_files_of_ranks(use_dcp)
    inner = unwrapped(model)
    own_names = _adapter_names(inner) if adapter_only else {}
    if _is_whole(fsdp_plugin):
        source = Source(_model_file(input_dir, model_index), None, own_names)
    else:
        folder = file_names.model_folder(Path(input_dir), model_index)
        given = Path(input_dir)
        source = Source(given if given.name == folder.name else folder, "model", own_names)

    def read() -> dict[str, Any]:
        shapes = source.shapes_for(inner)
        fatal, _ = differences(inner, shapes, strict=not own_names)
        missing = [name for name in own_names.values() if name not in shapes]
        if fatal or missing:
            why = fatal or f"missing there: {missing[0]}"
            raise AccelnbError(f"{source.path} is not of this {class_name(inner)}: {why}")
        return source.read_for(inner, "cpu")

    load_weights_into(inner, together(read))


def save_fsdp_optimizer(
    fsdp_plugin: Any,
    accelerator: Any,
    optimizer: Any,
    model: nn.Module,
    output_dir: _Path,
    optimizer_index: int = 0,
    use_dcp: bool = True,
) -> None:
    """Save an optimizer's state by the names of its parameters, in ``optimizer_0``. A collective.

    With ``FULL_STATE_DICT`` rank 0 writes it whole, into ``optimizer.bin``.
    """
    _refuse_files_of_ranks(use_dcp)
    names = parameter_names.names_of(optimizer, [model])
    state = parameter_names.by_name(optimizer.state_dict(), names, kind_of(optimizer, "optimizer"))
    if _is_whole(fsdp_plugin):
        _write_whole(state, _optimizer_file(output_dir, optimizer_index))
    else:
        folder = file_names.optimizer_folder(Path(output_dir), optimizer_index)
        _write_parts({file_names.OPTIMIZER_KEY: state}, folder)


def load_fsdp_optimizer(
    fsdp_plugin: Any,
    accelerator: Any,
    optimizer: Any,
    model: nn.Module,
    input_dir: _Path,
    optimizer_index: int = 0,
    adapter_only: bool = False,
    use_dcp: bool = True,
) -> None:
    """Load what `save_fsdp_optimizer` saved, here or in Accelerate. A collective.

    Raises
    ------
    AccelnbError
        It is missing, damaged, or of another model. Nothing has changed then.
    """
    _refuse_files_of_ranks(use_dcp)
    home = Path(input_dir)
    folder = file_names.optimizer_folder(home, optimizer_index)
    if home.name == folder.name:
        folder = home
    names = parameter_names.names_of(optimizer, [model])

    def read() -> Any:
        if _is_whole(fsdp_plugin):
            path = _optimizer_file(home, optimizer_index)
            state = load(path, **in_place(path))
        else:
            path = folder
            state = skeleton(folder, file_names.OPTIMIZER_KEY)
        check_optimizer(
            path, optimizer, parameter_names.by_number(state, names, optimizer, str(path))
        )
        return with_parts_of_optimizer(optimizer, names, state, folder, file_names.OPTIMIZER_KEY)

    optimizer.load_state_dict(together(read))


def merge_fsdp_weights(
    checkpoint_dir: _Path,
    output_path: _Path,
    safe_serialization: bool = True,
    remove_checkpoint_dir: bool = False,
) -> None:
    """Write the weights of a folder of parts into files of whole ones, once, from rank 0.

    Parameters
    ----------
    checkpoint_dir
        Of `Accelerator.save_state`, `save_fsdp_model` or Accelerate.
    output_path
        A folder, for ``model.safetensors`` or ``pytorch_model.bin``; in several files with an
        index from 10 GB on.
    remove_checkpoint_dir
        Delete `checkpoint_dir` afterwards.
    """
    from accelnb.training.checkpoint.merging import merge_weights  # slow to import

    process = PartialState()

    def merge() -> None:
        if process.is_main_process:
            merge_weights(checkpoint_dir, output_path, force=True, safe=safe_serialization)
            if remove_checkpoint_dir:
                shutil.rmtree(checkpoint_dir)

    together(merge)


def _weights(model: nn.Module, adapter_only: bool) -> dict[str, Any]:
    inner = unwrapped(model)
    state = parts_of(inner)
    names = _adapter_names(inner) if adapter_only else {}
    return {saved: state[own] for saved, own in names.items()} or state


def _adapter_names(model: Any) -> dict[str, str]:
    """Return what peft calls the weights of a model's adapter, with their names in the model.

    Empty of a model that is not one of peft.
    """
    if not hasattr(model, "peft_config"):
        return {}
    from peft import get_peft_model_state_dict  # pyright: ignore[reportMissingImports]

    state = parts_of(model)
    names = {id(value): name for name, value in state.items()}
    adapter = get_peft_model_state_dict(model, state, adapter_name=model.active_adapter)
    if any(id(value) not in names for value in adapter.values()):
        raise AccelnbError("adapter_only=True: peft changes the weights of this adapter to save it")
    return {saved: names[id(value)] for saved, value in adapter.items()}


def _write_parts(named: dict[str, Any], folder: Path) -> None:
    from accelnb.training.checkpoint.sharded import Writing  # slow to import

    process = PartialState()
    together(lambda: folder.mkdir(parents=True, exist_ok=True))
    ranks = list(range(process.num_processes))
    writing = Writing(named, {}, folder, ranks, process.process_index)
    written = of_every_rank(together(writing.write))
    together(lambda: writing.complete(written))


def _write_whole(state: Any, path: Path) -> None:
    """Gather one tensor after the other on rank 0, which writes them."""
    writes = PartialState().is_main_process
    whole = mapped(state, "", lambda _, tensor: gathered(tensor, keep=writes))

    def write() -> None:
        if writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, lambda new: write_pickled(whole, new))

    together(write)


def _is_whole(fsdp_plugin: Any) -> bool:
    return "FULL" in str(getattr(fsdp_plugin, "state_dict_type", ""))


def _model_file(folder: _Path, index: int) -> Path:
    return Path(folder) / file_names.numbered(f"{constants.FSDP_MODEL_NAME}.bin", index)


def _optimizer_file(folder: _Path, index: int) -> Path:
    return Path(folder) / file_names.numbered(file_names.OPTIMIZER, index)


def _refuse_files_of_ranks(use_dcp: bool) -> None:
    if not use_dcp:
        raise AccelnbError(
            "use_dcp=False: a file for each rank can be loaded by as many ranks alone; leave it "
            "True"
        )
