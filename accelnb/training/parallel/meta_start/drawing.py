"""Initial values for what a model has none for: drawn on rank 0, each process gets its part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from accelnb.errors import AccelnbError
from accelnb.training.collective_errors import attempt
from accelnb.training.communication import broadcast_object
from accelnb.training.dtensors import is_dtensor
from accelnb.training.parallel.meta_start.without_values import allocate, forget, some
from accelnb.training.parallel.slices import (
    buffer_on,
    class_name,
    held,
    local_part,
    put,
    send_from_rank_0,
    slots,
)
from accelnb.training.parallel.strategy import is_sharded
from accelnb.training.parallel.unwrapping import extract_model_from_parallel
from accelnb.training.state import PartialState


def initialize_weights(
    model: nn.Module, param_init_fn: Callable[[nn.Module], Any] | None = None
) -> None:
    """Draw values for what a model has none for (on the meta device), each process its part.

    Rank 0 draws for one module after another, those inside a module first. So the values are
    those of rank 0's random numbers, however the model is divided: with a seed, the same on any
    number of processes. Of a divided model all of them call it; others are a process's own.

    Parameters
    ----------
    param_init_fn
        Called with each module that has tensors of its own without values; it is to set these
        alone. By default the model's own ``_init_weights`` (of transformers), or else each
        module's ``reset_parameters()``.

    Raises
    ------
    AccelnbError
        Some would be left without values, or others were changed. On every rank.

    Examples
    --------
    >>> import torch
    >>> from accelnb.utils import initialize_weights
    >>> model = torch.nn.Linear(2, 1, device="meta")
    >>> initialize_weights(model)
    >>> model.weight.is_meta
    False
    """
    model = extract_model_from_parallel(model)
    todo = list(_modules_without_values(model))
    init = param_init_fn or getattr(model, "_init_weights", None)
    if init is None:
        _refuse_without_reset(model, [module for module, _ in todo])
        init = _reset
    device, shared = PartialState().device, is_sharded(model) and PartialState().use_distributed
    before, buffer = _random_state(), buffer_on(device)
    allocate(model, [held(module, key) for module, keys in todo for key in keys], device)
    names = {id(module): name for name, module in model.named_modules()}
    for n, (module, keys) in enumerate(todo):
        draw = partial(_drawn, module, keys, init, device)
        values, failure = _on_rank_0(draw) if shared else _outcome(draw)
        if failure is not None:
            forget(model, [held(module, key) for module, keys in todo[n:] for key in keys])
            name = names[id(module)] or "the model"
            raise AccelnbError(f"{name} ({class_name(module)}) cannot be initialized: {failure}")
        for key in keys:
            if shared:
                send_from_rank_0(values.pop(key, None), held(module, key), buffer)
            else:
                local_part(held(module, key)).copy_(values.pop(key))
    if shared:
        _draw_on_as_rank_0(before)


def _modules_without_values(model: nn.Module) -> Iterator[tuple[nn.Module, list[str]]]:
    """Yield the modules with tensors of their own on the meta device, and the keys of these.

    In the order in which they were made: what is inside a module before it. Of a tied tensor the
    first place counts.
    """
    seen: set[int] = set()
    for module in _inside_first(model, set()):
        own = (*module._parameters.items(), *module._buffers.items())
        keys = [k for k, it in own if it is not None and it.is_meta and id(it) not in seen]
        seen.update(id(held(module, key)) for key in keys)
        if keys:
            yield module, keys


def _inside_first(module: nn.Module, seen: set[int]) -> Iterator[nn.Module]:
    if id(module) in seen:
        return
    seen.add(id(module))
    for child in module.children():
        yield from _inside_first(child, seen)
    yield module


def _reset(module: Any) -> None:
    module.reset_parameters()


def _refuse_without_reset(model: nn.Module, modules: list[nn.Module]) -> None:
    lacking = {
        type(module).__name__ for module in modules if not hasattr(module, "reset_parameters")
    }
    if lacking:
        raise AccelnbError(
            f"{class_name(model)} cannot be initialized: {some(sorted(lacking))} have no "
            "reset_parameters(); give a param_init_fn(module) that sets a module's own tensors"
        )


# ---- on rank 0 ----

_OF_OTHERS = "it uses tensors of other modules too, and is to set each module's own alone"


def _outcome(draw: Callable[[], dict[str, torch.Tensor]]) -> tuple[dict[str, torch.Tensor], Any]:
    """Return what was drawn, and a text if that failed."""
    values, error = attempt(draw)
    kind = "" if isinstance(error, AccelnbError) else f"{type(error).__name__}: "
    return values or {}, error and f"{kind}{error}"


def _on_rank_0(draw: Callable[[], dict[str, torch.Tensor]]) -> tuple[dict[str, torch.Tensor], Any]:
    """Return what rank 0 has drawn, on other ranks nothing; and on all a text if that failed."""
    values, failure = _outcome(draw) if PartialState().process_index == 0 else ({}, None)
    return values, broadcast_object(failure, 0)


def _drawn(
    module: nn.Module, keys: list[str], init: Callable[[nn.Module], Any], device: torch.device
) -> dict[str, torch.Tensor]:
    """Have a module set its own tensors while it has them whole."""
    # All of its own, for it may set them together: what has values keeps them.
    parts = {key: it for owner, key, it in slots(module) if owner is module}
    versions = [(it, it._version) for owner, _, it in slots(module) if owner is not module]
    empty = {key: _unset(part, device) for key, part in parts.items()}
    unset = {key: it._version for key, it in empty.items()}
    try:
        for key, it in empty.items():
            put(module, key, it)
        with torch.no_grad(), _OnlyWholeTensors():
            init(module)
        values = {key: held(module, key) for key in keys}
    finally:
        for key, part in parts.items():
            put(module, key, part)
    if any(it._version != version for it, version in versions):
        raise AccelnbError(_OF_OTHERS)
    if missed := [k for k in keys if values[k] is empty[k] and _is_unset(values[k], unset[k])]:
        raise AccelnbError(f"it leaves {some(missed)} without values")
    return values


class _OnlyWholeTensors(TorchDispatchMode):
    """Refuses what is done with divided tensors: rank 0 alone cannot."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(map(is_dtensor, args)):
            raise AccelnbError(_OF_OTHERS)
        return func(*args, **(kwargs or {}))


def _unset(part: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a whole tensor in which one sees whether it was set."""
    whole = torch.empty(part.shape, dtype=part.dtype, device=device)
    if whole.dtype.is_floating_point or whole.dtype.is_complex:
        whole.fill_(torch.nan)
    elif whole.dtype != torch.bool:
        whole.fill_(torch.iinfo(whole.dtype).min)
    return nn.Parameter(whole, part.requires_grad) if isinstance(part, nn.Parameter) else whole


def _is_unset(whole: torch.Tensor, version: int) -> bool:
    if whole._version != version or not whole.numel():
        return False
    if whole.dtype.is_floating_point or whole.dtype.is_complex:
        return bool(whole.isnan().all())
    return whole.dtype == torch.bool or bool((whole == torch.iinfo(whole.dtype).min).all())


# ---- random numbers ----


def _generators() -> list[Any]:
    kind = PartialState().device.type
    return [torch] if kind == "cpu" else [torch, torch.get_device_module(kind)]


def _random_state() -> list[torch.Tensor]:
    return [generator.get_rng_state() for generator in _generators()]


def _draw_on_as_rank_0(before: list[torch.Tensor]) -> None:
    """Keep random numbers the same on the ranks on which they were those of rank 0."""
    was, now = broadcast_object((before, _random_state()), 0)
    for generator, its, of_rank_0, state in zip(_generators(), before, was, now, strict=True):
        if torch.equal(its, of_rank_0):
            generator.set_rng_state(state)
