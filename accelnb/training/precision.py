"""Mixed precision: autocast, the scaler that fp16 needs, fp8 by torchao."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

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
        return torch.autocast(self.device_type, dtype=_DTYPES[self.kind], **given)

    def make_scaler(self, handler: GradScalerKwargs | None = None) -> Scaler | None:
        """Return the scaler that keeps fp16 gradients in range; None where none is needed."""
        if self.kind != "fp16":
            return None
        given = (handler or GradScalerKwargs()).to_kwargs()
        return Scaler(self.device_type, **given)

    def apply_to(self, model: nn.Module) -> None:
        """Make a model compute in this precision, instead of any before.

        It returns fp32, unless the `AutocastKwargs` leave outputs as they were computed.
        """
        restore_forward(model)
        if not self.is_mixed:
            return
        if self.kind == "fp8":
            _convert_to_fp8(model, self.fp8_recipe)
        model.forward = _ForwardInPrecision(model.forward, self)

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


class _ForwardInPrecision:
    """A model's ``forward`` in mixed precision. It can be pickled."""

    def __init__(self, forward: Callable[..., Any], precision: Precision) -> None:
        functools.update_wrapper(self, forward)  # its signature is that of the original
        self.forward = forward
        self.precision = precision

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.precision.autocast():
            outputs = self.forward(*args, **kwargs)
        if self.precision.autocast_handler.outputs == "compute":
            return outputs
        return convert_to_fp32(outputs)


def restore_forward(model: nn.Module) -> None:
    """Undo `Precision.apply_to`, but for fp8 layers."""
    if isinstance(model.__dict__.get("forward"), _ForwardInPrecision):
        del model.__dict__["forward"]


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


def _convert_to_fp8(model: nn.Module, recipe: AORecipeKwargs) -> None:
    """Replace linear layers by torchao's, in place.

    The first and the last stay as they are, for they decide accuracy most, and so do those whose
    sizes are no multiples of 16, which the matrix product needs.
    """
    from torchao.float8 import (  # pyright: ignore[reportMissingImports]
        Float8LinearConfig,
        convert_to_float8_training,
    )

    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    kept = {linears[0], linears[-1]} if linears else set()

    def in_the_middle(module: nn.Module, name: str) -> bool:
        if type(module) is not nn.Linear or name in kept:  # torchao's own is a subclass
            return False
        return module.in_features % 16 == 0 and module.out_features % 16 == 0

    convert_to_float8_training(
        model,
        config=recipe.config or Float8LinearConfig(),
        module_filter_fn=recipe.module_filter_func or in_the_middle,
    )
