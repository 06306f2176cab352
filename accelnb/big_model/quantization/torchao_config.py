"""How torchao shall quantize a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from accelnb.big_model.dtypes import CustomDtype
from accelnb.big_model.errors import BigModelError
from accelnb.big_model.quantization.bnb_config import check_names, dtype_of

KINDS = ("int8", "int4", "fp8")


@dataclass
class TorchaoQuantizationConfig:
    """What `load_and_quantize_model` does by torchao: weights in few bits, and nothing else.

    Parameters
    ----------
    weights
        ``int8`` or ``fp8``, with a scale for each row, or ``int4``, with one for each 128 values
        of a row. Or any configuration of ``torchao.quantization``.
    torch_dtype
        What layers compute in, and what all that is not quantized is in: ``fp32``, ``fp16``,
        ``bf16`` or a dtype.
    skip_modules
        Names of modules that are not quantized. By default the output layer, and what is tied.
    keep_in_fp32_modules
        Names of modules that are not quantized and stay in fp32.

    Raises
    ------
    BigModelError
        A value is wrong.

    Examples
    --------
    >>> from accelnb.utils import TorchaoQuantizationConfig
    >>> TorchaoQuantizationConfig("int8", torch_dtype="fp32").torch_dtype
    torch.float32
    """

    weights: Any = "int8"
    torch_dtype: str | torch.dtype = torch.bfloat16
    skip_modules: list[str] | None = None
    keep_in_fp32_modules: list[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.weights, str) and self.weights not in KINDS:
            raise BigModelError(
                f"weights={self.weights!r}: choose one of {', '.join(KINDS)}, or give a "
                "configuration of torchao.quantization"
            )
        self.torch_dtype = dtype_of(self.torch_dtype, "torch_dtype")
        check_names(self.skip_modules, "skip_modules")
        check_names(self.keep_in_fp32_modules, "keep_in_fp32_modules")

    @property
    def target_dtype(self) -> Any:
        """What a quantized weight takes, for device maps: at most."""
        return CustomDtype.INT4 if self.weights == "int4" else torch.int8
