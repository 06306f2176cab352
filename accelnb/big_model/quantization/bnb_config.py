"""How bitsandbytes shall quantize a model."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch

from accelnb.big_model.dtypes import CustomDtype
from accelnb.big_model.errors import BigModelError

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_THRESHOLD = 6.0


@dataclass
class BnbQuantizationConfig:
    """What `load_and_quantize_model` does by bitsandbytes, in 8 bits or in 4.

    Parameters
    ----------
    load_in_8bit, load_in_4bit
        One of them is True.
    llm_int8_threshold
        Columns of the activations that have a larger value are computed in 16 bits. For 8 bits.
    bnb_4bit_quant_type
        The values that 4 bits stand for: ``fp4`` or ``nf4``.
    bnb_4bit_use_double_quant
        Quantize the scales of the blocks too.
    bnb_4bit_compute_dtype
        What layers of 4 bits compute in: ``fp32``, ``fp16``, ``bf16`` or a dtype.
    torch_dtype
        What all that is not quantized is in: by default fp16 beside 8 bits, and what layers of 4
        bits compute in beside those.
    skip_modules
        Names of modules that are not quantized. By default the output layer, and what is tied.
    keep_in_fp32_modules
        Names of modules that are not quantized and stay in fp32.

    Raises
    ------
    BigModelError
        A value is wrong. It is a ``ValueError`` too.

    Examples
    --------
    >>> from accelnb.utils import BnbQuantizationConfig
    >>> config = BnbQuantizationConfig(load_in_4bit=True, bnb_4bit_compute_dtype="bf16")
    >>> config.torch_dtype
    torch.bfloat16
    """

    load_in_8bit: bool = False
    llm_int8_threshold: float = _THRESHOLD
    load_in_4bit: bool = False
    bnb_4bit_quant_type: str = "fp4"
    bnb_4bit_use_double_quant: bool = False
    bnb_4bit_compute_dtype: str | torch.dtype = "fp16"
    torch_dtype: str | torch.dtype | None = None
    skip_modules: list[str] | None = None
    keep_in_fp32_modules: list[str] | None = None

    def __post_init__(self) -> None:
        for name in ("load_in_8bit", "load_in_4bit", "bnb_4bit_use_double_quant"):
            if not isinstance(getattr(self, name), bool):
                raise BigModelError(f"{name}={getattr(self, name)!r}: give True or False")
        if self.load_in_8bit == self.load_in_4bit:
            raise BigModelError(
                f"load_in_8bit={self.load_in_8bit}, load_in_4bit={self.load_in_4bit}: set one"
            )
        threshold = self.llm_int8_threshold
        if not isinstance(threshold, int | float) or isinstance(threshold, bool):
            raise BigModelError(f"llm_int8_threshold={threshold!r}: give a number")
        if self.bnb_4bit_quant_type not in ("fp4", "nf4"):
            raise BigModelError(
                f"bnb_4bit_quant_type={self.bnb_4bit_quant_type!r}: choose fp4 or nf4"
            )
        if self.load_in_4bit and threshold != _THRESHOLD:
            warnings.warn("llm_int8_threshold: has no effect with load_in_4bit", stacklevel=3)
        self.bnb_4bit_compute_dtype = dtype_of(
            self.bnb_4bit_compute_dtype, "bnb_4bit_compute_dtype"
        )
        if self.torch_dtype is None:
            self.torch_dtype = self.bnb_4bit_compute_dtype if self.load_in_4bit else torch.float16
        self.torch_dtype = dtype_of(self.torch_dtype, "torch_dtype")
        check_names(self.skip_modules, "skip_modules")
        check_names(self.keep_in_fp32_modules, "keep_in_fp32_modules")

    @property
    def target_dtype(self) -> Any:
        """What a quantized weight takes, for device maps."""
        return CustomDtype.INT4 if self.load_in_4bit else torch.int8


def dtype_of(given: Any, name: str) -> torch.dtype:
    """Return a dtype, which may be given by its short name."""
    if isinstance(given, torch.dtype):
        return given
    if given not in _DTYPES:
        raise BigModelError(f"{name}={given!r}: choose one of {', '.join(_DTYPES)}, or a dtype")
    return _DTYPES[given]


def check_names(given: Any, name: str) -> None:
    """Refuse what is no list of names of modules."""
    if given is not None and not (
        isinstance(given, list) and all(isinstance(entry, str) for entry in given)
    ):
        raise BigModelError(f"{name}={given!r}: give a list of names of modules")
