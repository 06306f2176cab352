"""A model's parts put where a device map says, or all of its weights on CPU or disk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accelnb.big_model.align_devices import AlignDevicesHook
from accelnb.big_model.attaching import (
    attach_align_device_hook,
    attach_align_device_hook_on_blocks,
    fetch_ahead,
)
from accelnb.big_model.device_maps import check_device_map
from accelnb.big_model.errors import BigModelError
from accelnb.big_model.hooks import add_hook_to_module
from accelnb.big_model.moving import guard_moves
from accelnb.big_model.offloaded_files import INDEX, offload_state_dict
from accelnb.big_model.places import Place, as_device
from accelnb.big_model.placing import Tied
from accelnb.big_model.tied import retie_parameters
from accelnb.big_model.weights_maps import OffloadedWeightsLoader, extract_submodules_state_dict
from accelnb.big_model.whole_models import CpuOffload, UserCpuOffloadHook
from accelnb.training.available import is_bnb_available
from accelnb.training.checkpoint.weights import find_tied_parameters
from accelnb.training.parallel.meta_start.without_values import some

_Folder = str | os.PathLike[str]


def cpu_offload(
    model: nn.Module,
    execution_device: Place | None = None,
    offload_buffers: bool = False,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    preload_module_classes: Sequence[str] | None = None,
) -> nn.Module:
    """Keep a model's weights on the CPU, and bring each module's to a device when it computes.

    Parameters
    ----------
    execution_device
        Where it computes. By default where its first parameter is.
    offload_buffers
        Keep buffers on the CPU too.
    state_dict
        The weights that are kept. By default those of the model.
    preload_module_classes
        Names of classes whose weights are used without their modules being called: all in one of
        these come before its forward pass.

    Examples
    --------
    >>> import torch
    >>> from accelnb import cpu_offload
    >>> model = cpu_offload(torch.nn.Linear(2, 1))
    >>> model.weight.device, model(torch.ones(1, 2)).shape
    (device(type='meta'), torch.Size([1, 1]))
    """
    if state_dict is None:
        state_dict = {name: tensor.to("cpu") for name, tensor in model.state_dict().items()}
    return _offload_all(
        model, state_dict, execution_device, offload_buffers, preload_module_classes
    )


def disk_offload(
    model: nn.Module,
    offload_dir: _Folder,
    execution_device: Place | None = None,
    offload_buffers: bool = False,
    preload_module_classes: Sequence[str] | None = None,
) -> nn.Module:
    """Keep a model's weights in files, which are mapped into memory where the model computes.

    Parameters
    ----------
    offload_dir
        Where the files are. If it holds none, the model's weights are written there.
    execution_device, offload_buffers, preload_module_classes
        As for `cpu_offload`.

    Examples
    --------
    >>> import tempfile, torch
    >>> from accelnb import disk_offload
    >>> model = disk_offload(torch.nn.Linear(2, 1), tempfile.mkdtemp())
    >>> model.weight.device, model(torch.ones(1, 2)).shape
    (device(type='meta'), torch.Size([1, 1]))
    """
    if not _holds_weights(offload_dir):
        offload_state_dict(offload_dir, model.state_dict())
    weights = OffloadedWeightsLoader(save_folder=offload_dir)
    return _offload_all(model, weights, execution_device, offload_buffers, preload_module_classes)


def _offload_all(
    model: nn.Module,
    weights: Mapping[str, torch.Tensor],
    execution_device: Place | None,
    offload_buffers: bool,
    preload_module_classes: Sequence[str] | None,
) -> nn.Module:
    if execution_device is None:
        execution_device = next(model.parameters()).device
    add_hook_to_module(model, AlignDevicesHook(io_same_device=True), append=True)
    attach_align_device_hook(
        model,
        execution_device=execution_device,
        offload=True,
        offload_buffers=offload_buffers,
        weights_map=weights,
        preload_module_classes=preload_module_classes,
    )
    fetch_ahead(model)
    return model


def _holds_weights(folder: _Folder) -> bool:
    return Path(folder, INDEX).is_file()


def cpu_offload_with_hook(
    model: nn.Module,
    execution_device: Place | None = None,
    prev_module_hook: UserCpuOffloadHook | None = None,
) -> tuple[nn.Module, UserCpuOffloadHook]:
    """Keep a model on the CPU until it computes; it then stays on its device.

    For models that compute one after the other, maybe in a loop each.

    Parameters
    ----------
    execution_device
        Where it computes. By default the best device of this machine.
    prev_module_hook
        What this function returned for the model before it, which goes to the CPU when this one
        computes.

    Returns
    -------
    model
        The same.
    hook
        Its ``offload()`` sends the model to the CPU, its ``remove()`` takes the hook off.

    Examples
    --------
    >>> import torch
    >>> from accelnb import cpu_offload_with_hook
    >>> encoder, hook = cpu_offload_with_hook(torch.nn.Linear(2, 2))
    >>> decoder, last_hook = cpu_offload_with_hook(torch.nn.Linear(2, 2), prev_module_hook=hook)
    >>> output = decoder(encoder(torch.ones(1, 2)))
    >>> last_hook.offload()
    """
    hook = CpuOffload(execution_device, prev_module_hook)
    add_hook_to_module(model, hook, append=True)
    return model, UserCpuOffloadHook(model, hook)


def dispatch_model(
    model: nn.Module,
    device_map: Mapping[str, Place],
    main_device: Place | None = None,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    offload_dir: _Folder | None = None,
    offload_index: Mapping[str, Any] | None = None,
    offload_buffers: bool = False,
    skip_keys: str | list[str] | None = None,
    preload_module_classes: Sequence[str] | None = None,
    force_hooks: bool = False,
) -> nn.Module:
    """Put the parts of a model where a device map says, with hooks that bring inputs after them.

    Weights on ``"cpu"`` (if there is another device) and ``"disk"`` come to the main device when
    they are needed, those of the next module while the one before it computes.

    Parameters
    ----------
    device_map
        For each part, by its name, its device or ``"disk"``.
    main_device
        Where parts on ``"cpu"`` and ``"disk"`` compute. By default the first other device.
    state_dict
        The weights of the parts on the CPU. By default those of the model.
    offload_dir
        Where the weights on disk are. If it holds none, those of the model are written there.
    offload_index
        Which files hold the weights on disk, as `OffloadedWeightsLoader` takes it.
    offload_buffers
        Keep buffers with their weights.
    skip_keys
        Keyword arguments, and keys of outputs, that stay where they are.
    preload_module_classes
        Names of classes whose weights are used without their modules being called: all in one of
        these come before its forward pass.
    force_hooks
        Use hooks also where all is on one device. Otherwise the model is just moved there.

    Returns
    -------
    model
        The same, with the map in ``hf_device_map``.

    Raises
    ------
    BigModelError
        The map leaves parts out, or there is no place for those on disk.

    Examples
    --------
    >>> import tempfile, torch
    >>> from accelnb import dispatch_model
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    >>> model = dispatch_model(model, {"0": "cpu", "1": "disk"}, offload_dir=tempfile.mkdtemp())
    >>> model[1].weight.device, model(torch.ones(1, 4)).shape
    (device(type='meta'), torch.Size([1, 2]))
    """
    if not getattr(model, "_no_placement_params", None):  # transformers: some stay where they are
        check_device_map(model, device_map)
    devices = list(dict.fromkeys(device_map.values()))
    on_disk = _parts_on(device_map, "disk")
    if len(devices) == 1 and not on_disk and not (force_hooks or _cannot_be_moved(model)):
        model.to(as_device(devices[0]))
    else:
        main = _main_device(devices) if main_device is None else main_device
        if not _is_type(main, "cpu") and state_dict is None:
            if on_cpu := _parts_on(device_map, "cpu"):
                state_dict = extract_submodules_state_dict(model.state_dict(), on_cpu)
        weights = _weights_elsewhere(model, on_disk, state_dict, offload_dir, offload_index, main)
        tied = find_tied_parameters(model)
        attach_align_device_hook_on_blocks(
            model,
            execution_device=_execution_devices(device_map, main),
            offload={name: _is_away(place, main) for name, place in device_map.items()},
            offload_buffers=offload_buffers,
            weights_map=weights,
            skip_keys=skip_keys,
            preload_module_classes=preload_module_classes,
            tied_params_map=_tied_map(model, tied),
        )
        retie_parameters(model, tied)
        fetch_ahead(model)
        guard_moves(model)
    vars(model)["hf_device_map"] = dict(device_map)
    return model


def _cannot_be_moved(model: nn.Module) -> bool:
    """Return whether a model is quantized by a bitsandbytes whose weights cannot be moved."""
    if getattr(model, "quantization_method", "bitsandbytes") != "bitsandbytes":
        return False
    eight, four = (getattr(model, f"is_loaded_in_{bits}bit", False) for bits in (8, 4))
    return (eight and not is_bnb_available("0.48.0")) or (four and not is_bnb_available("0.43.2"))


def _main_device(devices: Sequence[Place]) -> Place:
    return next((device for device in devices if device not in ("cpu", "disk")), "cpu")


def _execution_devices(device_map: Mapping[str, Place], main: Place) -> dict[str, Place]:
    devices = {
        name: main if place in ("cpu", "disk") else place for name, place in device_map.items()
    }
    return devices | {"": main}


def _is_away(place: Place, main: Place) -> bool:
    """Return whether weights in a place come to another one to compute."""
    shares_memory = _is_type(main, "cpu") or _is_type(main, "mps")
    return place == "disk" or (place == "cpu" and not shares_memory)


def _is_type(place: Place, kind: str) -> bool:
    return not isinstance(place, int) and torch.device(place).type == kind


def _parts_on(device_map: Mapping[str, Place], place: str) -> list[str]:
    return [name for name, its in device_map.items() if its == place]


def _weights_elsewhere(
    model: nn.Module,
    on_disk: list[str],
    state_dict: Mapping[str, torch.Tensor] | None,
    folder: _Folder | None,
    index: Mapping[str, Any] | None,
    main: Place,
) -> OffloadedWeightsLoader | None:
    """Return where weights on CPU and disk are; write those of the model that are in no file."""
    if on_disk and index is None:
        if folder is None:
            raise BigModelError(
                f"the device map puts {some(on_disk)} on disk: say in which folder (`offload_dir`)"
            )
        if not _holds_weights(folder):
            weights = extract_submodules_state_dict(model.state_dict(), on_disk)
            offload_state_dict(folder, weights)
    folder = folder if on_disk else None
    if state_dict is None and folder is None and index is None:
        return None
    return OffloadedWeightsLoader(state_dict, folder, index)


def _tied_map(model: nn.Module, tied: Sequence[Sequence[str]]) -> Tied:
    """Return a place for the copies of each tied weight, by the address that it has now."""
    weights = [model.get_parameter(name) for group in tied for name in group]
    return {weight.data_ptr(): {} for weight in weights if not weight.is_meta}
