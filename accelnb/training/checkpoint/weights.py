"""A model's weights: which are tied, what a file holds of them, whether it fits a model."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from accelnb.devices import records
from accelnb.errors import AccelnbError
from accelnb.training.dtensors import is_dtensor
from accelnb.training.parallel.unwrapping import extract_model_from_parallel
from accelnb.training.pytree import recursively_apply


def find_tied_parameters(model: nn.Module, **_: Any) -> list[list[str]]:
    """Return the groups of names under which a model has one and the same parameter.

    Examples
    --------
    >>> from torch import nn
    >>> from accelnb.utils import find_tied_parameters
    >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    >>> model[1].weight = model[0].weight
    >>> find_tied_parameters(model)
    [['0.weight', '1.weight']]
    """
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [sorted(group) for group in names.values() if len(group) > 1]


def merged_names(state_dict: Mapping[str, Any]) -> dict[str, str]:
    """Return, for each tensor that is another one of the dict, the name of that other."""
    first: dict[Any, str] = {}
    merged = {}
    for name, tensor in state_dict.items():
        if not isinstance(tensor, torch.Tensor):
            continue
        kept = first.setdefault(memory_of(tensor), name)
        if kept != name:
            merged[name] = kept
    return merged


def memory_of(value: Any) -> Any:
    """Return what two tensors have in common if they are the same memory, seen the same way."""
    if not isinstance(value, torch.Tensor) or value.is_meta or not value.numel():
        return id(value)
    if is_traceable_wrapper_subclass(value):  # as DTensors: what it says of its memory is no sign
        return id(value)
    try:
        place = value.data_ptr()
    except RuntimeError:  # a tensor without memory of its own, as a wrapper of others
        return id(value)
    if place == 0:
        return id(value)
    return value.device, place, value.dtype, tuple(value.shape), value.stride()


def clean_state_dict_for_safetensors(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dict as safetensors can hold it. The given one is not changed.

    Tied tensors are there once, under their first name. Different parts of one tensor are copied.

    Raises
    ------
    AccelnbError
        Something is not a tensor.

    Examples
    --------
    >>> import torch
    >>> from accelnb.utils import clean_state_dict_for_safetensors
    >>> weight = torch.ones(2)
    >>> list(clean_state_dict_for_safetensors({"embedding": weight, "head": weight}))
    ['embedding']
    """
    refuse_objects(state_dict)
    merged = merged_names(state_dict)
    owners: set[Any] = set()
    cleaned = {}
    for name, tensor in state_dict.items():
        if name in merged:
            continue
        tensor = tensor.detach().contiguous()
        storage = (tensor.device, tensor.untyped_storage().data_ptr())
        if storage in owners and tensor.numel():
            tensor = tensor.clone()
        owners.add(storage)
        cleaned[name] = tensor
    return cleaned


def refuse_objects(state_dict: Mapping[str, Any]) -> None:
    """Raise an error if something is not a plain tensor."""
    for name, value in state_dict.items():
        if not is_plain(value):
            raise AccelnbError(
                f"{name} is a {type(value).__name__}, and safetensors holds plain tensors alone: "
                "save with safe_serialization=False"
            )


def unwrapped(model: Any) -> nn.Module:
    """Return the model itself, whose weights have its own names."""
    return extract_model_from_parallel(model, keep_torch_compile=False)


def is_plain(value: Any) -> bool:
    """Return whether something is a tensor that is not made of others, but for parts on ranks."""
    if not isinstance(value, torch.Tensor):
        return False
    return is_dtensor(value) or not is_traceable_wrapper_subclass(value)


def readable(data: Any) -> Any:
    """Return the structure detached, and on the CPU where torch does not see a tensor's memory.

    Such tensors only a process with such a device could load. Tied ones stay tied. Without any
    the structure is returned as it is.
    """
    if not _may_be_opaque():
        return data
    copied: dict[int, torch.Tensor] = {}

    def detached(tensor: torch.Tensor) -> torch.Tensor:
        if not records(tensor.device.type):
            return tensor.detach()
        if id(tensor) not in copied:
            copied[id(tensor)] = tensor.detach().cpu()
        return copied[id(tensor)]

    return recursively_apply(detached, data)


def _may_be_opaque() -> bool:
    return "torch_xla" in sys.modules


# ---- reading ----


def shapes_in(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Return the shapes in a safetensors file, and which names were merged; reads no weights."""
    with opened(path) as file:
        names = list(file.keys())
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        merged = file.metadata() or {}
    return shapes, {name: kept for name, kept in merged.items() if kept in shapes}


def read_safetensors(path: Path, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, merged ones under each of their names."""
    _, merged = shapes_in(path)
    with opened(path, str(device)) as file:
        state = {name: file.get_tensor(name) for name in list(file.keys())}
    return state | {name: state[kept] for name, kept in merged.items()}


def opened(path: Path, device: str = "cpu") -> Any:
    """Return an open safetensors file, to be used in a ``with`` statement."""
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt", device=device)
    except FileNotFoundError:
        raise AccelnbError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise AccelnbError(f"{path} cannot be read, it seems damaged: {error}") from None


def without_ddp_prefix(state: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """Return the dict with the model's own names: Accelerate saves those of DDP's wrapper."""
    prefix = "module."
    if hasattr(model, "module") or not all(name.startswith(prefix) for name in state):
        return state
    return {name.removeprefix(prefix): value for name, value in state.items()}


def differences(
    model: nn.Module, shapes: Mapping[str, Any], strict: bool = True
) -> tuple[str, str]:
    """Return how a model and a file's weights differ, each time as a text, empty if not.

    Returns
    -------
    fatal : str
        Why it cannot be loaded.
    other : str
        What is missing or unexpected where `strict` is not set.
    """
    own = model.state_dict(keep_vars=True)  # tied ones are then one object, also if sharded
    merged = merged_names(own)
    held = {*shapes, *(merged.get(name, name) for name in shapes)}
    missing = [name for name in own if name not in held and merged.get(name, name) not in held]
    unexpected = [name for name in shapes if name not in own]
    changed = [
        f"{name} is {list(shapes[name])} there and {list(value.shape)} in the model"
        for name, value in own.items()
        if isinstance(value, torch.Tensor)
        and shapes.get(name) is not None
        and tuple(shapes[name]) != tuple(value.shape)
    ]
    loose = [_some("missing there: ", missing), _some("not in the model: ", unexpected)]
    fatal = [_some("", changed)] if not strict else [*loose, _some("", changed)]
    return "; ".join(filter(None, fatal)), "; ".join(filter(None, [] if strict else loose))


def shapes_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shapes of a state dict's tensors, None for other values."""
    return {name: getattr(value, "shape", None) for name, value in state.items()}


def _some(head: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return head + ", ".join(names[:3]) + more
