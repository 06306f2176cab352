"""Mixed precision: autocast, the scaler that fp16 needs, fp8 by torchao."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from accelnb.devices import DEVICES, Device
from accelnb.errors import AccelnbError
from accelnb.training.available import is_package_available
from accelnb.training.configuration import AORecipeKwargs, AutocastKwargs, GradScalerKwargs
from accelnb.training.pytree import convert_to_fp32
from accelnb.training.scaler import Scaler
from accelnb.training.state import AcceleratorState

# What operations compute in under autocast. fp8 replaces linear layers; the rest is bf16.
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.bfloat16}


@dataclass(frozen=True)
class Precision:
    """How models compute on a device.

    Parameters
    ----------
    kind
        ``no``, ``fp16``, ``bf16`` or ``fp8``.
    device_type
        Of the torch device: ``cuda``, ``cpu`` ...

    Raises
    ------
    AccelnbError
        The device or the installed packages cannot; says which can.

    Examples
    --------
    >>> import torch
    >>> from accelnb.training.precision import Precision
    >>> with Precision("bf16", "cpu").autocast():
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.bfloat16
    """

    kind: str
    device_type: str
    autocast_handler: AutocastKwargs = field(default_factory=AutocastKwargs)
    fp8_recipe: AORecipeKwargs = field(default_factory=AORecipeKwargs)

    def __post_init__(self) -> None:
        if self.kind == "fp8":
            self._check_fp8()
        elif self.device_type in DEVICES and (why := self._device.why_not(self.kind)):
            self._refuse(why)

    @property
    def is_mixed(self) -> bool:
        return self.kind != "no"

    @property
    def dtype(self) -> torch.dtype:
        """What most operations compute in."""
        return _DTYPES.get(self.kind, torch.float32)

    def autocast(self, handler: AutocastKwargs | None = None) -> AbstractContextManager[Any]:
        """Return a context in which operations compute in this precision.

        Parameters
        ----------
        handler
            Instead of the one this was made with; ``AutocastKwargs(enabled=False)`` computes in
            fp32.
        """
        if not self.is_mixed:
            return nullcontext()
        given = (handler or self.autocast_handler).to_dict()
        return torch.autocast(self.device_type, dtype=self.dtype, **given)

    def make_scaler(self, handler: GradScalerKwargs | None = None) -> Scaler | None:
        """Return the scaler that keeps fp16 gradients in range; None where none is needed."""
        if self.kind != "fp16":
            return None
        given = (handler or GradScalerKwargs()).to_kwargs()
        return Scaler(self.device_type, **given)

    def _check_fp8(self) -> None:
        # A TPU does not even emulate it.
        if self._device.kind == "XLA" and (why := self._device.why_not("fp8")):
            self._refuse(why)
        if not is_package_available("torchao"):
            self._refuse("the package torchao is missing; pip install 'accelnb[fp8]'")
        if getattr(self.fp8_recipe.config, "emulate", False):
            return
        if why := self._device.why_not("fp8"):
            self._refuse(
                f"{why}, or AORecipeKwargs with Float8LinearConfig(emulate=True) to try it slowly"
            )

    @property
    def _device(self) -> Device:
        return DEVICES[self.device_type]

    def _refuse(self, why: str) -> None:
        raise AccelnbError(f"mixed_precision={self.kind}: {why}")


def convert_outputs_to_fp32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function return fp32 where it returned tensors of fp16 or bf16."""

    @functools.wraps(function)
    def in_fp32(*args: Any, **kwargs: Any) -> Any:
        return convert_to_fp32(function(*args, **kwargs))

    return in_fp32


def get_mixed_precision_context_manager(
    native_amp: bool = False, autocast_kwargs: AutocastKwargs | None = None
) -> AbstractContextManager[Any]:
    """Return a context that computes as the newest Accelerator does, if `native_amp` is set."""
    state = AcceleratorState()
    kind = state.mixed_precision if native_amp else "no"
    return Precision(kind, state.device.type).autocast(autocast_kwargs)
