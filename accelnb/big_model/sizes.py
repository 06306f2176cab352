"""How many bytes the parts of a model take, also of one without values."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from accelnb.big_model.dtypes import Dtype, as_dtype, dtype_byte_size, is_converted
from accelnb.big_model.errors import BigModelError
from accelnb.big_model.module_tensors import named_module_tensors

# A module, or a parameter or buffer that is in no module smaller than the model.
Part = nn.Module | torch.Tensor
Named = tuple[str, Part]
Classes = str | Collection[str] | None
Dtypes = Mapping[str, str | Dtype] | None

_UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(?P<number>.+?)\s*(?P<unit>[kmgt])(?P<binary>i?)b", re.IGNORECASE)


def convert_file_size_to_int(size: int | str) -> int:
    """Return the bytes that a text such as ``"5GB"`` means; ``"5Gb"`` are bits.

    Raises
    ------
    BigModelError
        It is negative, or no size.

    Examples
    --------
    >>> from accelnb.utils import convert_file_size_to_int
    >>> convert_file_size_to_int("1MiB"), convert_file_size_to_int("1.5GB")
    (1048576, 1500000000)
    """
    count = _count(size) if isinstance(size, str) else size
    if count < 0:
        raise BigModelError(
            f"{size!r} is no size: give bytes as a number, or a text such as '5GB', '500MiB'"
        )
    return count


def _count(text: str) -> int:
    """Return the bytes of a text, a negative number where it is no size."""
    if (found := _SIZE.fullmatch(text.strip())) is None:
        return -1
    units = _BINARY_UNITS if found["binary"] else _UNITS
    try:
        count = int(float(found["number"]) * units[found["unit"].upper()])
    except (ValueError, OverflowError):
        return -1
    return count // 8 if found[0].endswith("b") and not found["binary"] else count


def id_tensor_storage(tensor: torch.Tensor) -> tuple[torch.device, int, int]:
    """Return what tensors that share their memory have in common: device, address and bytes.

    Examples
    --------
    >>> import torch
    >>> from accelnb.utils import id_tensor_storage
    >>> whole = torch.ones(4)
    >>> id_tensor_storage(whole[:2]) == id_tensor_storage(whole)
    True
    """
    try:
        storage = tensor.untyped_storage()
        return tensor.device, storage.data_ptr(), storage.nbytes()
    except (RuntimeError, NotImplementedError):  # a wrapper of other tensors has no memory
        return tensor.device, id(tensor), tensor.nbytes


def compute_module_sizes(
    model: nn.Module,
    dtype: str | Dtype | None = None,
    special_dtypes: Dtypes = None,
    buffers_only: bool = False,
) -> dict[str, int]:
    """Return the bytes of each module, parameter and buffer by its name; the model's is ``""``.

    Parameters
    ----------
    dtype
        What its weights will be converted to. Integers are not.
    special_dtypes
        The same for single weights, by name.
    buffers_only
        Count buffers alone.

    Examples
    --------
    >>> from torch import nn
    >>> from accelnb.utils import compute_module_sizes
    >>> dict(compute_module_sizes(nn.Sequential(nn.Linear(3, 4, bias=False))))
    {'': 48, '0': 48, '0.weight': 48}
    """
    special = {name: as_dtype(it) for name, it in (special_dtypes or {}).items()}
    wanted = None if dtype is None else as_dtype(dtype)
    tensors = model.named_buffers() if buffers_only else named_module_tensors(model, recurse=True)
    sizes: dict[str, int] = defaultdict(int)
    for name, tensor in tensors:
        size = _bytes(tensor, special.get(name, wanted), forced=name in special)
        parts = name.split(".")
        for end in range(len(parts) + 1):
            sizes[".".join(parts[:end])] += size
    return sizes


def _bytes(tensor: torch.Tensor, dtype: Dtype | None, forced: bool) -> int:
    """Return what a tensor takes, or will take once it is converted."""
    if dtype is not None and (forced or is_converted(tensor.dtype)):
        return int(tensor.numel() * dtype_byte_size(dtype))
    if is_traceable_wrapper_subclass(tensor):  # quantized weights: what they really consist of
        its: Any = tensor
        names, _ = its.__tensor_flatten__()
        return sum(_bytes(getattr(its, name), None, forced=False) for name in names)
    return tensor.nbytes


def compute_module_total_buffer_size(
    model: nn.Module, dtype: str | Dtype | None = None, special_dtypes: Dtypes = None
) -> int:
    """Return the bytes of all buffers of a model.

    Examples
    --------
    >>> from torch import nn
    >>> from accelnb.utils import compute_module_total_buffer_size
    >>> compute_module_total_buffer_size(nn.BatchNorm1d(4))
    40
    """
    return compute_module_sizes(model, dtype, special_dtypes, buffers_only=True).get("", 0)


def get_max_layer_size(
    modules: Sequence[Named],
    module_sizes: Mapping[str, int],
    no_split_module_classes: Classes,
) -> tuple[int, list[str]]:
    """Return the bytes of the largest layer, and the names of all layers of that size.

    A layer is what is not divided: a module without others in it, or of one of the classes.

    Examples
    --------
    >>> from torch import nn
    >>> from accelnb.utils import compute_module_sizes, get_max_layer_size
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 4))
    >>> get_max_layer_size(list(model.named_children()), compute_module_sizes(model), [])
    (48, ['1'])
    """
    largest, names = 0, []
    left = list(reversed(modules))
    whole = class_names(no_split_module_classes)
    while left:
        name, part = left.pop()
        if inside := modules_inside(part, whole):
            left += reversed([(f"{name}.{key}", module) for key, module in inside])
        elif module_sizes.get(name, 0) > largest:
            largest, names = module_sizes[name], [name]
        elif module_sizes.get(name, 0) == largest:
            names.append(name)
    return largest, names


def calculate_maximum_sizes(model: nn.Module) -> tuple[int, tuple[int, list[str]]]:
    """Return the bytes of a model, and those of its largest layer with the names of such layers.

    What transformers' models say must not be divided is a layer.

    Examples
    --------
    >>> from torch import nn
    >>> from accelnb.utils import calculate_maximum_sizes
    >>> calculate_maximum_sizes(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 4)))
    (72, (48, ['1']))
    """
    sizes = compute_module_sizes(model)
    whole: Any = getattr(model, "_no_split_modules", None)
    return sizes[""], get_max_layer_size(parts_of(model), sizes, whole)


def parts_of(module: nn.Module, name: str = "") -> list[Named]:
    """Return what a module consists of, by full names: parameters, modules, buffers of its own."""
    prefix = f"{name}." if name else ""
    parts: list[Named] = [
        *module.named_parameters(recurse=False),
        *module.named_children(),
        *module.named_buffers(recurse=False),
    ]
    return [(prefix + key, part) for key, part in parts]


def modules_inside(part: Part, whole: Collection[str]) -> list[tuple[str, nn.Module]]:
    """Return the modules into which a part can be divided; none if it is a layer."""
    if not isinstance(part, nn.Module) or type(part).__name__ in whole:
        return []
    return list(part.named_children())


def class_names(classes: Classes) -> Collection[str]:
    """Return names of classes as a collection."""
    if classes is None:
        return ()
    return (classes,) if isinstance(classes, str) else classes
