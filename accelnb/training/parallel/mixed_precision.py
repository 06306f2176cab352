"""Models that compute in mixed precision."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from accelnb.training.configuration import AORecipeKwargs
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.plan import Plan
from accelnb.training.precision import Precision
from accelnb.training.pytree import convert_to_fp32


def apply_precision(model: nn.Module, mesh: Mesh, plan: Plan) -> nn.Module:
    """Make a model compute in the precision of a plan, instead of any before.

    It returns fp32, unless the `AutocastKwargs` leave outputs as they were computed.
    """
    restore_forward(model)
    precision = plan.precision
    if not precision.is_mixed:
        return model
    if precision.kind == "fp8":
        _convert_to_fp8(model, precision.fp8_recipe)
    model.forward = _ForwardInPrecision(model.forward, precision)
    return model


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
    """Undo `apply_precision`, but for fp8 layers."""
    if isinstance(model.__dict__.get("forward"), _ForwardInPrecision):
        del model.__dict__["forward"]


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
