"""One tensor of a module put on another device."""

from __future__ import annotations

import torch
from torch import nn

from accelnb.big_model.dtypes import as_dtype, is_converted
from accelnb.big_model.errors import BigModelError
from accelnb.big_model.module_tensors import owner_of
from accelnb.big_model.parameters import is_packed, parameter_like
from accelnb.big_model.places import Place, as_device, is_same_device
from accelnb.training.memory import clear_device_cache

Tied = dict[int, dict[Place, torch.Tensor]]


def set_module_tensor_to_device(
    module: nn.Module,
    tensor_name: str,
    device: Place,
    value: torch.Tensor | None = None,
    dtype: str | torch.dtype | None = None,
    fp16_statistics: torch.Tensor | None = None,
    tied_params_map: Tied | None = None,
    non_blocking: bool = False,
    clear_cache: bool = True,
) -> None:
    """Put a parameter or buffer of a module on a device, maybe with another value.

    Parameters
    ----------
    tensor_name
        Its name, with those of the modules that it is in: ``"layers.0.weight"``.
    device
        A number is that of an accelerator. On ``"meta"`` the tensor loses its values.
    value
        What it is from now on; needed where it is on the meta device.
    dtype
        What it is converted to, unless it holds integers. By default it stays of its type, and a
        new value becomes of that.
    fp16_statistics
        The scales of a weight of 8 bits (bitsandbytes).
    tied_params_map
        For each address of a tied weight, the tensors that stand for it, by device. One that is
        there is taken instead of another copy, and a new one is added.
    non_blocking
        Do not wait for the transfer, where memory is pinned.
    clear_cache
        Give memory that torch keeps for later back to the device afterwards.

    Raises
    ------
    BigModelError
        There is no such tensor, no value, or one of another shape.

    Examples
    --------
    >>> import torch
    >>> from accelnb.utils import set_module_tensor_to_device
    >>> layer = torch.nn.Linear(2, 1, device="meta")
    >>> set_module_tensor_to_device(layer, "weight", "cpu", value=torch.ones(1, 2))
    >>> layer.weight
    Parameter containing:
    tensor([[1., 1.]], requires_grad=True)
    """
    owner, key = owner_of(module, tensor_name)
    held = owner._parameters if key in owner._parameters else owner._buffers
    old = held[key]
    if old is None:
        raise BigModelError(f"{tensor_name} of {type(module).__name__} is None")
    if (shared := _already_there(tied_params_map, device, value, old)) is not None:
        held[key] = shared  # pyright: ignore
        return
    target = as_device(device)
    _refuse_wrong_value(key, old, value, target)
    source = old if value is None else value
    wanted = _dtype_after(source, old, dtype)
    if value is None and is_same_device(old.device, target) and old.dtype == wanted:
        new = old
    elif isinstance(old, nn.Parameter):
        new = parameter_like(old, source, target, wanted, fp16_statistics, non_blocking)
    else:
        with torch.no_grad():
            new = source.detach().to(target, wanted, non_blocking=non_blocking)
    held[key] = new  # pyright: ignore
    if clear_cache and target.type not in ("cpu", "meta"):
        clear_device_cache()
    _remember(tied_params_map, device, old, value, new)


def _refuse_wrong_value(
    key: str, old: torch.Tensor, value: torch.Tensor | None, target: torch.device
) -> None:
    if value is None:
        if old.is_meta and target.type != "meta":
            raise BigModelError(
                f"{key} is on the meta device and has no values: give the `value` that it shall "
                f"have on {target}"
            )
    elif value.shape != old.shape and not is_packed(old):
        raise BigModelError(
            f'Trying to set a tensor of shape {value.shape} in "{key}" (which has shape '
            f"{old.shape}), this looks incorrect."
        )


def _dtype_after(
    source: torch.Tensor, old: torch.Tensor, dtype: str | torch.dtype | None
) -> torch.dtype:
    """Return the type that a tensor will have."""
    if dtype is None:
        return old.dtype
    wanted = as_dtype(dtype)
    assert isinstance(wanted, torch.dtype)
    return wanted if is_converted(source.dtype) else source.dtype


# ---- tied weights ----


def _already_there(
    tied: Tied | None, device: Place, value: torch.Tensor | None, old: torch.Tensor
) -> torch.Tensor | None:
    for tensor in (value, old):
        copies = (tied or {}).get(_address(tensor), {})
        if device in copies:
            return copies[device]
    return None


def _remember(
    tied: Tied | None,
    device: Place,
    old: torch.Tensor,
    value: torch.Tensor | None,
    new: torch.Tensor,
) -> None:
    for tensor in (old, value):
        if tied is not None and (address := _address(tensor)) in tied:
            tied[address].setdefault(device, new)
            return


def _address(tensor: torch.Tensor | None) -> int:
    """Return where a tensor's memory is, 0 where it has none of its own."""
    if tensor is None or tensor.is_meta:
        return 0
    try:
        return tensor.data_ptr()
    except RuntimeError:  # a wrapper of other tensors
        return 0
