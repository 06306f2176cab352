"""A checkpoint loaded into a model and made to run, in one call."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import nn

from accelnb.big_model.auto_device_map import infer_auto_device_map
from accelnb.big_model.dispatch import dispatch_model
from accelnb.big_model.errors import BigModelError
from accelnb.big_model.loading import load_checkpoint_in_model
from accelnb.big_model.max_memory import get_balanced_memory
from accelnb.big_model.places import Place
from accelnb.big_model.sizes import Classes

_CHOICES = ("auto", "balanced", "balanced_low_0", "sequential")


def load_checkpoint_and_dispatch(
    model: nn.Module,
    checkpoint: str | os.PathLike[str],
    device_map: str | Mapping[str, Place] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    no_split_module_classes: Classes = None,
    offload_folder: str | os.PathLike[str] | None = None,
    offload_buffers: bool = False,
    dtype: str | torch.dtype | None = None,
    offload_state_dict: bool | None = None,
    skip_keys: str | list[str] | None = None,
    preload_module_classes: list[str] | None = None,
    force_hooks: bool = False,
    strict: bool = False,
    full_state_dict: bool = True,
    broadcast_from_rank0: bool = False,
) -> nn.Module:
    """Load a checkpoint into a model, each part on its device, and make the model run there.

    Parameters
    ----------
    device_map
        The device of each part, or how to find it: ``"auto"`` and ``"balanced"`` use all
        accelerators alike, ``"balanced_low_0"`` as little as possible of the first, and
        ``"sequential"`` fills one after the other. Without one the model stays where it is.
    max_memory, no_split_module_classes
        Of `infer_auto_device_map`, which finds the map.
    offload_folder, dtype, offload_state_dict, offload_buffers, strict
        Of `load_checkpoint_in_model`.
    skip_keys, preload_module_classes, force_hooks
        Of `dispatch_model`.
    full_state_dict, broadcast_from_rank0
        Of `load_checkpoint_in_model`, for models that are divided over processes.

    Raises
    ------
    AccelnbError
        As those functions.

    Examples
    --------
    >>> import tempfile, torch
    >>> from accelnb import Accelerator, init_empty_weights, load_checkpoint_and_dispatch
    >>> folder = tempfile.mkdtemp()
    >>> Accelerator().save_model(torch.nn.Sequential(torch.nn.Linear(2, 1)), folder)
    >>> with init_empty_weights():
    ...     model = torch.nn.Sequential(torch.nn.Linear(2, 1))
    >>> model = load_checkpoint_and_dispatch(model, folder, {"0": "disk"}, offload_folder=folder)
    >>> model(torch.ones(3, 2)).shape
    torch.Size([3, 1])
    """
    if isinstance(device_map, str):
        device_map = _found(
            device_map, model, max_memory, no_split_module_classes, dtype, offload_buffers
        )
    load_checkpoint_in_model(
        model,
        checkpoint,
        device_map=device_map,
        offload_folder=offload_folder,
        dtype=dtype,
        offload_state_dict=offload_state_dict,
        offload_buffers=offload_buffers,
        strict=strict,
        full_state_dict=full_state_dict,
        broadcast_from_rank0=broadcast_from_rank0,
    )
    if device_map is None:
        return model
    return dispatch_model(
        model,
        device_map=device_map,
        offload_dir=offload_folder,
        offload_buffers=offload_buffers,
        skip_keys=skip_keys,
        preload_module_classes=preload_module_classes,
        force_hooks=force_hooks,
    )


def _found(
    choice: str,
    model: nn.Module,
    max_memory: Mapping[int | str, int | str] | None,
    no_split: Classes,
    dtype: str | torch.dtype | None,
    offload_buffers: bool,
) -> Mapping[str, Place]:
    """Return the device map that a word stands for."""
    if choice not in _CHOICES:
        raise BigModelError(f"device_map={choice!r}: choose one of {', '.join(_CHOICES)}, or a map")
    if choice != "sequential":
        low_zero = choice == "balanced_low_0"
        max_memory = get_balanced_memory(model, max_memory, no_split, dtype, low_zero=low_zero)
    return infer_auto_device_map(
        model, max_memory, no_split, dtype=dtype, offload_buffers=offload_buffers
    )
