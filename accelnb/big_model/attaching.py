"""`AlignDevicesHook` attached to the modules of a model that need one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from accelnb.big_model.align_devices import AlignDevicesHook
from accelnb.big_model.fetching_ahead import FetchingAhead
from accelnb.big_model.hooks import add_hook_to_module
from accelnb.big_model.module_tensors import named_module_tensors
from accelnb.big_model.places import Place
from accelnb.big_model.placing import Tied
from accelnb.big_model.weights_maps import PrefixedDataset


def attach_execution_device_hook(
    module: nn.Module,
    execution_device: Place,
    skip_keys: str | list[str] | None = None,
    preload_module_classes: Sequence[str] | None = None,
    tied_params_map: Tied | None = None,
) -> None:
    """Have all modules with weights in a module compute on a device, but those that have a hook.

    Parameters
    ----------
    preload_module_classes
        Names of classes: what is in a module of these gets none.
    """
    weights = named_module_tensors(module, recurse=True, remove_non_persistent=True)
    if not hasattr(module, "_hf_hook") and next(weights, None) is not None:
        hook = AlignDevicesHook(
            execution_device, skip_keys=skip_keys, tied_params_map=tied_params_map
        )
        add_hook_to_module(module, hook)
    if _is_of(module, preload_module_classes):
        return
    for child in module.children():
        attach_execution_device_hook(
            child, execution_device, skip_keys, preload_module_classes, tied_params_map
        )


def attach_align_device_hook(
    module: nn.Module,
    execution_device: Place | None = None,
    offload: bool = False,
    weights_map: Mapping[str, torch.Tensor] | None = None,
    offload_buffers: bool = False,
    module_name: str = "",
    skip_keys: str | list[str] | None = None,
    preload_module_classes: Sequence[str] | None = None,
    tied_params_map: Tied | None = None,
) -> None:
    """Attach an `AlignDevicesHook` to each module in a module that has weights of its own.

    Parameters
    ----------
    weights_map
        The weights of the whole model, by their names there.
    module_name
        What the module is called there.
    preload_module_classes
        Names of classes whose weights are used without their modules being called: all in one of
        these come before its forward pass.
    """
    whole = offload and _is_of(module, preload_module_classes)
    if whole or next(named_module_tensors(module), None) is not None:
        prefix = f"{module_name}." if module_name else ""
        hook = AlignDevicesHook(
            execution_device=execution_device,
            offload=offload,
            weights_map=None if weights_map is None else PrefixedDataset(weights_map, prefix),
            offload_buffers=offload_buffers,
            place_submodules=whole,
            skip_keys=skip_keys,
            tied_params_map=tied_params_map,
        )
        add_hook_to_module(module, hook, append=True)
    if whole:
        return
    for name, child in module.named_children():
        attach_align_device_hook(
            child,
            execution_device,
            offload,
            weights_map,
            offload_buffers,
            _joined(module_name, name),
            skip_keys,
            preload_module_classes,
            tied_params_map,
        )


def attach_align_device_hook_on_blocks(
    module: nn.Module,
    execution_device: Place | Mapping[str, Place] | None = None,
    offload: bool | Mapping[str, bool] = False,
    weights_map: Mapping[str, torch.Tensor] | None = None,
    offload_buffers: bool = False,
    module_name: str = "",
    skip_keys: str | list[str] | None = None,
    preload_module_classes: Sequence[str] | None = None,
    tied_params_map: Tied | None = None,
) -> None:
    """Attach an `AlignDevicesHook` to the blocks of a model, each with its device.

    Parameters
    ----------
    execution_device
        Where each block computes, by its name; or one device for the whole module.
    offload
        Whether each block's weights are kept elsewhere, by its name; or one answer for all.
    weights_map, module_name, preload_module_classes
        As for `attach_align_device_hook`.
    """
    shared: dict[str, Any] = {"skip_keys": skip_keys, "tied_params_map": tied_params_map}
    kept: dict[str, Any] = {
        "weights_map": weights_map,
        "offload_buffers": offload_buffers,
        "preload_module_classes": preload_module_classes,
        **shared,
    }
    if not isinstance(execution_device, Mapping) and not isinstance(offload, Mapping):
        if offload:
            attach_align_device_hook(
                module, execution_device, True, module_name=module_name, **kept
            )
        else:
            hook = AlignDevicesHook(
                execution_device, io_same_device=True, place_submodules=True, **shared
            )
            add_hook_to_module(module, hook)
        return
    devices, away = _by_block(execution_device, offload)
    for name, block in _modules_below(module, module_name):
        if name in devices and name in away:
            _attach_to_block(name, block, devices[name], away[name], kept, shared)
        elif name == "":
            hook = AlignDevicesHook(devices.get(""), io_same_device=True, **shared)
            add_hook_to_module(block, hook)


def _by_block(execution_device: Any, offload: Any) -> tuple[Mapping[str, Any], Mapping[str, bool]]:
    if not isinstance(execution_device, Mapping):
        return dict.fromkeys(offload, execution_device), offload
    if not isinstance(offload, Mapping):
        return execution_device, dict.fromkeys(execution_device, offload)
    return execution_device, offload


def _attach_to_block(
    name: str,
    block: nn.Module,
    device: Place,
    is_away: bool,
    kept: dict[str, Any],
    shared: dict[str, Any],
) -> None:
    is_outermost = name == ""
    if not is_away:
        hook = AlignDevicesHook(
            device,
            offload_buffers=kept["offload_buffers"],
            io_same_device=is_outermost,
            place_submodules=True,
            **shared,
        )
        add_hook_to_module(block, hook)
        attach_execution_device_hook(block, device, **shared)
        return
    attach_align_device_hook(block, device, offload=True, module_name=name, **kept)
    if not hasattr(block, "_hf_hook"):
        hook = AlignDevicesHook(device, io_same_device=is_outermost, **shared)
        add_hook_to_module(block, hook)
    attach_execution_device_hook(
        block, device, preload_module_classes=kept["preload_module_classes"], **shared
    )


def _modules_below(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield a module and those in it, each before what is in it."""
    yield name, module
    for child_name, child in module.named_children():
        yield from _modules_below(child, _joined(name, child_name))


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _is_of(module: nn.Module, classes: Sequence[str] | None) -> bool:
    return classes is not None and type(module).__name__ in classes


def fetch_ahead(model: nn.Module) -> None:
    """Have the hooks of a model fetch weights for the ones after them."""
    hooks = [hook for module in model.modules() for hook in align_hooks(module)]
    if any(hook.offload for hook in hooks):
        fetching = FetchingAhead()
        for hook in hooks:
            hook.fetching = fetching


def align_hooks(module: nn.Module) -> list[AlignDevicesHook]:
    """Return the hooks of a module that align devices, those in a `SequentialHook` too."""
    hook: Any = getattr(module, "_hf_hook", None)
    hooks = getattr(hook, "hooks", (hook,))
    return [hook for hook in hooks if isinstance(hook, AlignDevicesHook)]
