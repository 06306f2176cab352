"""Structures of tensors: lists, tuples, named tuples and mappings, nested in any way."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from accelnb.errors import AccelnbError


class TensorInformation(NamedTuple):
    """The shape and dtype of a tensor that is elsewhere."""

    shape: torch.Size
    dtype: torch.dtype


class NotTensors(AccelnbError, TypeError):
    """Something is neither a tensor nor a structure of tensors."""


def is_torch_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def is_tensor_information(value: Any) -> bool:
    return isinstance(value, TensorInformation)


def is_namedtuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields") and hasattr(value, "_asdict")


def honor_type(original: Any, values: Any) -> Any:
    """Return `values` as a list, tuple or named tuple: what `original` is."""
    made = list(values)
    return type(original)(*made) if is_namedtuple(original) else type(original)(made)


def rebuilt_mapping(original: Mapping[Any, Any], values: Mapping[Any, Any]) -> Any:
    """Return a mapping of `original`'s type (a `BatchEncoding`, say) that holds `values`."""
    if isinstance(original, dict) and type(original) is not dict:
        made = copy.copy(original)  # keeps what a subclass holds beside its items
        for key, value in values.items():  # transformers' outputs have no update()
            made[key] = value
        return made
    return type(original)(values)  # pyright: ignore[reportCallIssue]


def recursively_apply(
    func: Callable[..., Any],
    data: Any,
    *args: Any,
    test_type: Callable[[Any], bool] = is_torch_tensor,
    error_on_other_type: bool = False,
    **kwargs: Any,
) -> Any:
    """Apply a function to every tensor of a nested structure; return the structure of results.

    Parameters
    ----------
    func
        Called as ``func(tensor, *args, **kwargs)``.
    test_type
        Says what is a leaf to apply it to. Others are kept.
    error_on_other_type
        Refuse others instead.

    Raises
    ------
    TypeError
        There is something else, and `error_on_other_type` is set.

    Examples
    --------
    >>> import torch
    >>> from accelnb.utils import recursively_apply
    >>> recursively_apply(lambda t: t + 1, {"a": [torch.tensor(1), "text"]})
    {'a': [tensor(2), 'text']}
    """

    def apply(value: Any) -> Any:
        if test_type(value):
            return func(value, *args, **kwargs)
        if isinstance(value, tuple | list):
            return honor_type(value, map(apply, value))
        if isinstance(value, Mapping):
            return rebuilt_mapping(value, {key: apply(part) for key, part in value.items()})
        if error_on_other_type:
            raise NotTensors(
                f"only nested lists, tuples and dicts of tensors can be used here, not "
                f"{type(value).__name__}: objects go with gather_object, or gather_for_metrics"
            )
        return value

    return apply(data)


def send_to_device(
    tensor: Any,
    device: torch.device | str | int,
    non_blocking: bool = False,
    skip_keys: str | list[str] | None = None,
) -> Any:
    """Move every tensor of a structure, and every object with a ``to`` method, to `device`.

    Parameters
    ----------
    non_blocking
        Do not wait for copies from pinned memory.
    skip_keys
        Keys of mappings whose values stay where they are.
    """
    if hasattr(tensor, "to"):
        try:
            return tensor.to(device, non_blocking=non_blocking)
        except TypeError:  # its `to` takes the device alone
            return tensor.to(device)
    if isinstance(tensor, tuple | list):
        return honor_type(
            tensor, (send_to_device(part, device, non_blocking, skip_keys) for part in tensor)
        )
    if isinstance(tensor, Mapping):
        skipped = [skip_keys] if isinstance(skip_keys, str) else skip_keys or []
        moved = {
            key: part if key in skipped else send_to_device(part, device, non_blocking, skip_keys)
            for key, part in tensor.items()
        }
        return rebuilt_mapping(tensor, moved)
    return tensor


def find_batch_size(data: Any) -> int | None:
    """Return the length of the first dimension of the first tensor in `data`.

    Raises
    ------
    AccelnbError
        There is no tensor, or it is a scalar.
    """
    if isinstance(data, torch.Tensor):
        if data.ndim == 0:
            raise AccelnbError("a scalar tensor has no batch size")
        return data.shape[0]
    parts = data.values() if isinstance(data, Mapping) else data
    if isinstance(data, tuple | list | Mapping) and len(data):
        return find_batch_size(next(iter(parts)))
    raise AccelnbError(f"cannot find the batch size in a {type(data).__name__}")


def ignorant_find_batch_size(data: Any) -> int | None:
    """Return what `find_batch_size` does, or None if it finds none."""
    try:
        return find_batch_size(data)
    except AccelnbError:
        return None


def find_device(data: Any) -> torch.device | None:
    """Return the device of the first tensor in `data`, None if there is no tensor."""
    if isinstance(data, torch.Tensor):
        return data.device
    if isinstance(data, tuple | list | Mapping):
        parts = data.values() if isinstance(data, Mapping) else data
        return next((found for part in parts if (found := find_device(part)) is not None), None)
    return None


def listify(data: Any) -> Any:
    """Return the structure with plain lists in the place of tensors."""
    return recursively_apply(lambda tensor: tensor.tolist(), data)


def slice_tensors(
    data: Any,
    tensor_slice: slice,
    process_index: int | None = None,
    num_processes: int | None = None,
) -> Any:
    """Return the structure with ``tensor[tensor_slice]`` in the place of each tensor."""
    return recursively_apply(lambda tensor: tensor[tensor_slice], data)


def concatenate(data: list[Any], dim: int = 0) -> Any:
    """Return one structure with the tensors of equal structures concatenated.

    Raises
    ------
    TypeError
        Something is neither a tensor nor a structure.
    """
    first = data[0]
    if isinstance(first, tuple | list):
        parts = (concatenate([d[i] for d in data], dim=dim) for i in range(len(first)))
        return honor_type(first, parts)
    if isinstance(first, Mapping):
        return rebuilt_mapping(
            first, {key: concatenate([d[key] for d in data], dim=dim) for key in first}
        )
    if not isinstance(first, torch.Tensor):
        raise NotTensors(f"only tensors can be concatenated, not {type(first).__name__}")
    return torch.cat(data, dim=dim)


def get_data_structure(data: Any) -> Any:
    """Return the structure with a `TensorInformation` in the place of each tensor."""
    return recursively_apply(lambda tensor: TensorInformation(tensor.shape, tensor.dtype), data)


def get_shape(data: Any) -> Any:
    """Return the structure with each tensor's shape, as a list, in its place."""
    return recursively_apply(lambda tensor: list(tensor.shape), data)


def initialize_tensors(data_structure: Any) -> Any:
    """Return the structure with an empty tensor in the place of each `TensorInformation`."""
    return recursively_apply(
        lambda info: torch.empty(*info.shape, dtype=info.dtype),
        data_structure,
        test_type=is_tensor_information,
    )


def convert_to_fp32(tensor: Any) -> Any:
    """Return the structure with tensors of fp16 and bf16 as fp32."""
    return recursively_apply(
        lambda half: half.float(),
        tensor,
        test_type=lambda t: is_torch_tensor(t) and t.dtype in (torch.float16, torch.bfloat16),
    )
