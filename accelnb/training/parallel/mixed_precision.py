"""Models that compute in mixed precision."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from accelnb.training.parallel.fp8_layers import convert_model_to_fp8_ao
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
        recipe = precision.fp8_recipe
        convert_model_to_fp8_ao(model, recipe.config, recipe.module_filter_func)
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
