"""What `prepare` has put around a model, and how to get at the model itself."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from accelnb.training.parallel.mixed_precision import restore_forward


def extract_model_from_parallel(
    model: Any, keep_fp32_wrapper: bool = True, keep_torch_compile: bool = True
) -> Any:
    """Return the model that was prepared.

    Parameters
    ----------
    keep_fp32_wrapper
        If not, it computes in its own precision again.
    keep_torch_compile
        If not, also take off a compiled module around it (``torch.compile(model)``). `prepare`
        compiles in place and adds none.

    Examples
    --------
    >>> import torch
    >>> from accelnb import Accelerator
    >>> accelerator = Accelerator()
    >>> model = torch.nn.Linear(2, 1)
    >>> accelerator.unwrap_model(accelerator.prepare(model)) is model
    True
    """
    compiled = _compiled_inner(model)
    if compiled is not None and keep_torch_compile:
        inner = extract_model_from_parallel(compiled, keep_fp32_wrapper)
        return model if inner is compiled else inner
    if compiled is not None:
        model = compiled
    while isinstance(model, DistributedDataParallel | DataParallel):
        model = model.module
    if not keep_torch_compile and (inner := _compiled_inner(model)) is not None:
        model = inner
    if not keep_fp32_wrapper and isinstance(model, nn.Module):
        restore_forward(model)
    return model


def _compiled_inner(model: Any) -> Any:
    """Return what ``torch.compile(model)`` made its module of, None for any other."""
    return (
        model.__dict__.get("_modules", {}).get("_orig_mod")
        if isinstance(model, nn.Module)
        else None
    )
