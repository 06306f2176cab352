"""The hook that brings a module's inputs and weights to where it computes, and weights back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from accelnb.big_model.fetching_ahead import FetchingAhead
from accelnb.big_model.hooks import ModelHook, not_compiled
from accelnb.big_model.module_tensors import (
    get_non_persistent_buffers,
    named_module_tensors,
    owner_of,
)
from accelnb.big_model.needed_weights import NeededWeights, lies_in_memory
from accelnb.big_model.places import Place, as_device, is_same_device
from accelnb.big_model.placing import Tied, set_module_tensor_to_device
from accelnb.training.pytree import find_device, send_to_device

_META = torch.device("meta")


class AlignDevicesHook(ModelHook):
    """Bring inputs and weights of a module to one device for its forward pass.

    Parameters
    ----------
    execution_device
        Where it computes. By default inputs stay where they are.
    offload
        Keep its weights elsewhere between forward passes: the module holds them on the meta device.
    io_same_device
        Bring the output to the device on which the first input was.
    weights_map
        The weights that are kept elsewhere, by name. By default copies on the CPU.
    offload_buffers
        Keep its buffers there too. Those that a state dict leaves out stay.
    place_submodules
        Also the weights of the modules in it.
    skip_keys
        Keyword arguments, and keys of outputs, that stay where they are.
    tied_params_map
        Of weights that several modules share, by address, the tensors that stand for them by
        device, so that each device holds one.

    Examples
    --------
    >>> import torch
    >>> from accelnb.big_model.align_devices import AlignDevicesHook
    >>> from accelnb.big_model.hooks import add_hook_to_module
    >>> layer = torch.nn.Linear(2, 2)
    >>> layer = add_hook_to_module(layer, AlignDevicesHook("cpu", offload=True))
    >>> layer.weight.device, layer(torch.ones(1, 2)).device
    (device(type='meta'), device(type='cpu'))
    """

    def __init__(
        self,
        execution_device: Place | None = None,
        offload: bool = False,
        io_same_device: bool = False,
        weights_map: Mapping[str, torch.Tensor] | None = None,
        offload_buffers: bool = False,
        place_submodules: bool = False,
        skip_keys: str | list[str] | None = None,
        tied_params_map: Tied | None = None,
    ) -> None:
        self.execution_device = execution_device
        self.offload = offload
        self.io_same_device = io_same_device
        self.weights_map = weights_map
        self.offload_buffers = offload_buffers
        self.place_submodules = place_submodules
        self.skip_keys = skip_keys
        self.tied_params_map = tied_params_map
        self.input_device: torch.device | None = None
        self.original_devices: dict[str, torch.device] = {}
        self.tied_params_names: set[str] = set()
        self.fetching: FetchingAhead | None = None
        # While the weights are here: what stands in their place otherwise.
        self._stand_ins: dict[str, torch.Tensor] = {}
        # Entries of `tied_params_map` that this hook has made, and takes back.
        self._shared_here: list[tuple[int, Place]] = []

    def __repr__(self) -> str:
        return (
            f"AlignDevicesHook(execution_device={self.execution_device}, offload={self.offload}, "
            f"io_same_device={self.io_same_device}, offload_buffers={self.offload_buffers}, "
            f"place_submodules={self.place_submodules}, skip_keys={self.skip_keys!r})"
        )

    # ---- attached and taken off ----

    def init_hook(self, module: nn.Module) -> nn.Module:
        device = self.execution_device
        if device is not None and torch.device(device) == _META:
            self.tied_params_map = None  # what is there has no address
        if self.offload:
            self._send_away(module)
        elif device is not None:
            for name, _ in list(named_module_tensors(module, recurse=self.place_submodules)):
                self._place(module, name, device)
        return module

    def _send_away(self, module: nn.Module) -> None:
        tensors = dict(named_module_tensors(module, recurse=self.place_submodules))
        self.original_devices = {name: tensor.device for name, tensor in tensors.items()}
        kept = self._kept_elsewhere(module)
        if self.weights_map is None:
            self.weights_map = {name: tensor.detach().to("cpu") for name, tensor in kept.items()}
        tied = self.tied_params_map or {}
        for name, tensor in kept.items():
            if not tensor.is_meta and tensor.data_ptr() in tied:
                self.tied_params_names.add(name)
            set_module_tensor_to_device(module, name, "meta")
        if self.execution_device is None:
            return
        staying = dict(module.named_buffers(recurse=self.place_submodules))
        if self.offload_buffers:
            left_out = get_non_persistent_buffers(module, self.place_submodules, fqns=True)
            staying = {name: staying[name] for name in staying if name in left_out}
        for name in staying:
            self._place(module, name, self.execution_device)

    def _kept_elsewhere(self, module: nn.Module) -> dict[str, torch.Tensor]:
        return dict(
            named_module_tensors(
                module,
                include_buffers=self.offload_buffers,
                recurse=self.place_submodules,
                remove_non_persistent=True,
            )
        )

    def _place(self, module: nn.Module, name: str, device: Place) -> None:
        set_module_tensor_to_device(module, name, device, tied_params_map=self.tied_params_map)

    def detach_hook(self, module: nn.Module) -> nn.Module:
        self.fetching = None
        if not self.offload:
            return module
        self._put_stand_ins_back(module)
        tensors = dict(named_module_tensors(module, recurse=self.place_submodules))
        for name, device in self.original_devices.items():
            if device == _META or name not in tensors:
                continue
            value, statistics = None, None
            if tensors[name].is_meta:
                value, statistics = self._value(name)
                if not lies_in_memory(self.weights_map, name):
                    value = value.clone()  # the module's own, whatever becomes of the file
            set_module_tensor_to_device(
                module, name, device, value=value, fp16_statistics=statistics
            )
        return module

    # ---- a forward pass ----

    @not_compiled
    def pre_forward(
        self, module: nn.Module, *args: Any, **kwargs: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.io_same_device:
            self.input_device = find_device([args, kwargs])
        if self.fetching is not None:
            self.fetching.enter(self)
        if self.offload:
            self._bring(module)
        device = self.execution_device
        if device is None:
            return args, kwargs
        return send_to_device(args, device), send_to_device(
            kwargs, device, skip_keys=self.skip_keys
        )

    def _bring(self, module: nn.Module) -> None:
        """Give the module the weights that are not here yet."""
        kept = self._kept_elsewhere(module)
        missing = {name: tensor for name, tensor in kept.items() if not self._is_here(tensor)}
        ahead = self._fetched(module, missing)
        for name, stand_in in missing.items():
            if stand_in.is_meta:
                self._put(module, name, *self._value(name, ahead))
            else:  # tied to another module's, on that one's device
                set_module_tensor_to_device(module, name, self._target(stand_in), clear_cache=False)
            self._stand_ins[name] = stand_in
            if stand_in.requires_grad and torch.is_grad_enabled():
                _watch_gradient(owner_of(module, name))

    def _is_here(self, tensor: torch.Tensor) -> bool:
        target = as_device(self._target(tensor))
        return not tensor.is_meta and is_same_device(tensor.device, target)

    def _target(self, tensor: torch.Tensor) -> Place:
        return tensor.device if self.execution_device is None else self.execution_device

    def _fetched(
        self, module: nn.Module, missing: dict[str, torch.Tensor]
    ) -> Mapping[str, torch.Tensor]:
        if self.fetching is None or self.weights_map is None or self.execution_device is None:
            return {}
        shared = self.tied_params_names  # one copy does for all: it may be here
        own = {name: it for name, it in missing.items() if it.is_meta and name not in shared}
        needed = NeededWeights.of(module, self.weights_map, own, self.execution_device)
        return self.fetching.take(self, needed)

    def _value(
        self, name: str, ahead: Mapping[str, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return a weight, and the scales of one of 8 bits (bitsandbytes)."""
        weights: Any = self.weights_map
        value = ahead[name] if ahead and name in ahead else weights[name]
        scales = name.replace("weight", "SCB")
        is_scaled = value.dtype == torch.int8 and scales != name and scales in weights
        return value, weights[scales] if is_scaled else None

    def _put(
        self, module: nn.Module, name: str, value: torch.Tensor, statistics: torch.Tensor | None
    ) -> None:
        device: Any = self._target(value)
        tied = self.tied_params_map
        # A weight in a file has another address each time: another's may have been the same.
        if name not in self.tied_params_names or not lies_in_memory(self.weights_map, name):
            tied = None
        if tied is not None:
            address = value.data_ptr()
            if device not in tied.setdefault(address, {}):
                self._shared_here.append((address, device))
        set_module_tensor_to_device(
            module,
            name,
            device,
            value=value,
            fp16_statistics=statistics,
            tied_params_map=tied,
            clear_cache=False,
        )

    @not_compiled
    def post_forward(self, module: nn.Module, output: Any) -> Any:
        if self.offload:
            self._put_stand_ins_back(module)
        if self.fetching is not None:
            self.fetching.leave(self)
        if self.io_same_device and self.input_device is not None:
            return send_to_device(output, self.input_device, skip_keys=self.skip_keys)
        return output

    def _put_stand_ins_back(self, module: nn.Module) -> None:
        for name, stand_in in self._stand_ins.items():
            owner, key = owner_of(module, name)
            held: Any = owner._parameters if key in owner._parameters else owner._buffers
            held[key] = stand_in
            if type(owner).__name__ == "Linear8bitLt":  # it keeps parts of the weight beside it
                state: Any = owner.state
                state.SCB = state.CxB = None
        self._stand_ins = {}
        for address, device in self._shared_here:
            (self.tied_params_map or {}).get(address, {}).pop(device, None)
        self._shared_here = []


# ---- gradients ----


def _watch_gradient(place: tuple[nn.Module, str]) -> None:
    owner, name = place
    parameter = owner._parameters.get(name)
    if parameter is not None and parameter.is_leaf and parameter.requires_grad:
        parameter.register_post_accumulate_grad_hook(_drop_gradient)


def _drop_gradient(parameter: torch.Tensor) -> None:
    """Free a gradient that nothing could use: the weight is gone from its module."""
    parameter.grad = None
    warnings.warn(
        "gradients of weights that are kept on cpu or disk are thrown away: they cannot be "
        "trained. Freeze them with requires_grad_(False), or put their modules on a device",
        stacklevel=2,
    )
