"""Checkpoints loaded into models, of which each part may belong to another device."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from accelnb.big_model.errors import BigModelError
from accelnb.big_model.loading_by_map import LoadingByMap
from accelnb.big_model.places import Place
from accelnb.big_model.tied import warn_if_not_tied
from accelnb.training.checkpoint.reading_weights import read_weights
from accelnb.training.checkpoint.weights import find_tied_parameters
from accelnb.training.parallel.strategy import is_sharded
from accelnb.training.state import PartialState


def load_checkpoint_in_model(
    model: nn.Module,
    checkpoint: str | os.PathLike[str],
    device_map: Mapping[str, Place] | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
    dtype: str | torch.dtype | None = None,
    offload_state_dict: bool | None = False,
    offload_buffers: bool = False,
    keep_in_fp32_modules: Sequence[str] | None = None,
    offload_8bit_bnb: bool = False,
    strict: bool = False,
    full_state_dict: bool = True,
    broadcast_from_rank0: bool = False,
) -> None:
    """Load the weights that `Accelerator.save_model` or Hugging Face's libraries saved.

    All are checked before the model is changed. They are read one tensor at a time, each straight
    to its device. What has no values yet (on the meta device) gets memory there.

    Without a device map the model stays where it is. If it is divided over processes, all of them
    call it, and each reads its part alone.

    Parameters
    ----------
    checkpoint
        A file, an index (``model.safetensors.index.json``), or a folder that holds one.
    device_map
        The device of each part; `dispatch_model` then makes the model run. See
        `infer_auto_device_map`.
    offload_folder
        Where the weights of parts on ``"disk"`` are put, as an index and files. Those in
        safetensors files stay there: keep the checkpoint as long as the model.
    dtype
        What the weights are converted to, except integers. By default they take the model's types.
    offload_state_dict
        Has no effect: Accelerate puts weights aside on the disk, for it reads whole files at once.
    offload_buffers
        Offload the buffers of parts on ``"disk"`` too.
    keep_in_fp32_modules
        Names of modules that `dtype` leaves in float32.
    offload_8bit_bnb
        Quantize what is offloaded to the disk before (bitsandbytes, 8 bits).
    strict
        Refuse weights that are missing or not in the model. Otherwise that is a warning.
    full_state_dict
        Weights in files are whole ones; nothing else is possible for models that are divided.
    broadcast_from_rank0
        Only rank 0 reads files, and sends each process what it needs. All call it.

    Raises
    ------
    AccelnbError
        There are no weights, they are damaged, or of another model; or the device map leaves out
        some, or puts some on ``"disk"`` without an `offload_folder`.

    Examples
    --------
    >>> import tempfile, torch
    >>> from accelnb import Accelerator, init_empty_weights, load_checkpoint_in_model
    >>> folder = tempfile.mkdtemp()
    >>> Accelerator().save_model(torch.nn.Linear(2, 1), folder)
    >>> with init_empty_weights():
    ...     model = torch.nn.Linear(2, 1)
    >>> load_checkpoint_in_model(model, folder, device_map={"": "cpu"}, strict=True)
    >>> model.weight.device
    device(type='cpu')
    """
    divided = is_sharded(model)
    _refuse_what_is_not_possible(divided, device_map, dtype, full_state_dict, broadcast_from_rank0)
    warn_if_not_tied(model, find_tied_parameters(model))
    if device_map is None and dtype is None:
        read_weights(model, checkpoint, strict, from_rank_0=broadcast_from_rank0)
        return
    LoadingByMap(
        model,
        _as_it_is(model) if device_map is None else device_map,
        offload_folder,
        dtype,
        offload_buffers,
        keep_in_fp32_modules or (),
        offload_8bit_bnb,
    ).load(checkpoint, strict)


def _refuse_what_is_not_possible(
    divided: bool, device_map: Any, dtype: Any, full_state_dict: bool, broadcast_from_rank0: bool
) -> None:
    if divided and (device_map is not None or dtype is not None):
        raise BigModelError(
            "load_checkpoint_in_model: this model is divided over processes: it takes no "
            "device_map, and no dtype"
        )
    if divided and not full_state_dict:
        raise BigModelError(
            "load_checkpoint_in_model(full_state_dict=False): the weights in files are whole ones, "
            "each process reads its part of them; parts are read by accelerator.load_state"
        )
    if broadcast_from_rank0 and (device_map is not None or dtype is not None):
        raise BigModelError(
            "load_checkpoint_in_model(broadcast_from_rank0=True): the model stays where it is, "
            "without a device_map or dtype"
        )


def _as_it_is(model: nn.Module) -> dict[str, Place]:
    """Return the device map that leaves a model where it is; parts without values go on ours."""
    state = model.state_dict(keep_vars=True)
    tensors = {name: it for name, it in state.items() if isinstance(it, torch.Tensor)}
    own: Any = PartialState().device
    return {name: own if it.is_meta else it.device for name, it in tensors.items()}
