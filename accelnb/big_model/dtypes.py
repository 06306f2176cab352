"""Types of elements: their names, their sizes, and those that a model's conversion leaves alone."""

from __future__ import annotations

import enum

import torch

from accelnb.big_model.errors import BigModelError


class CustomDtype(enum.Enum):
    """Types that torch has no name for, of which a device map can know the size.

    Examples
    --------
    >>> from accelnb.utils import CustomDtype, dtype_byte_size
    >>> dtype_byte_size(CustomDtype.INT4)
    0.5
    """

    FP8 = "fp8"
    INT4 = "int4"
    INT2 = "int2"


_CUSTOM_SIZES = {CustomDtype.FP8: 1, CustomDtype.INT4: 0.5, CustomDtype.INT2: 0.25}

Dtype = torch.dtype | CustomDtype


def dtype_byte_size(dtype: Dtype) -> float:
    """Return the bytes that an element takes; of a bool the eighth that it needs.

    Examples
    --------
    >>> import torch
    >>> from accelnb.utils import dtype_byte_size
    >>> dtype_byte_size(torch.float32), dtype_byte_size(torch.bool)
    (4, 0.125)
    """
    if isinstance(dtype, CustomDtype):
        return _CUSTOM_SIZES[dtype]
    return 0.125 if dtype == torch.bool else dtype.itemsize


def as_dtype(dtype: str | Dtype) -> Dtype:
    """Return a type by its name, such as ``"float16"`` or ``"torch.float16"``.

    Raises
    ------
    BigModelError
        torch has no type of that name.
    """
    if not isinstance(dtype, str):
        return dtype
    found = getattr(torch, dtype.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise BigModelError(f"dtype={dtype!r}: torch has no such type")
    return found


def is_converted(dtype: torch.dtype) -> bool:
    """Return whether tensors of this type are converted where a model is.

    Integers are not, which are indices or quantized weights, and neither are complex numbers.
    """
    return dtype.is_floating_point
