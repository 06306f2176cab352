"""Optimizers that were made before their model was divided: they go on with its new parameters.

A model that is divided over processes gets new parameters. In plain torch an optimizer of the
former ones steps without any effect, and without an error.
"""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.weak import WeakIdKeyDictionary

from accelnb.errors import AccelnbError
from accelnb.training.dtensors import dtensors_in_use, is_dtensor, reshard
from accelnb.training.parallel.slices import class_name, like, own_slices

_Place = tuple[weakref.ref[nn.Module], str]

# Where in its model each parameter was that another one has replaced.
_replaced: Any = WeakIdKeyDictionary()
# Optimizers that were looked at since parameters were last replaced.
_up_to_date: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
_watched = False


class Parameters:
    """A model's parameters and their places, noted before it is divided.

    Examples
    --------
    >>> from torch import nn
    >>> from accelnb.training.parallel.swap import Parameters, current
    >>> model = nn.Linear(2, 1)
    >>> before, weight = Parameters(model), model.weight
    >>> model.weight = nn.Parameter(weight.detach().clone())  # as a model gets divided
    >>> before.note_replaced()
    >>> current([weight])[0] is model.weight
    True
    """

    def __init__(self, model: nn.Module) -> None:
        self._noted: list[tuple[Callable[[], torch.Tensor | None], _Place]] = [
            (_reference(parameter), (weakref.ref(module), key))
            for module in model.modules()
            for key, parameter in module._parameters.items()
            if parameter is not None
        ]

    def note_replaced(self) -> None:
        """Remember those that their places no longer hold, if they are still in use."""
        for old, place in self._noted:
            parameter = old()
            if parameter is not None and _held(place) is not parameter:
                _replaced[parameter] = place
        _watch_steps()


def _reference(parameter: torch.Tensor) -> Callable[[], torch.Tensor | None]:
    """Return what gives the parameter, as long as it is in use."""
    # Weakly: what is replaced is to be freed while the rest of the model is divided. But torch
    # gives no other memory to a DTensor to which there are weak references.
    return (lambda: parameter) if is_dtensor(parameter) else weakref.ref(parameter)


def current(parameters: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return the parameters, new ones for those that were replaced when a model was divided.

    Raises
    ------
    AccelnbError
        The model of some is no more.
    """
    if not _replaced:
        return list(parameters)
    found = [(parameter, _newest(parameter)) for parameter in parameters]
    if gone := sum(new is None for _, new in found):
        raise AccelnbError(
            f"{gone} parameters are of a model that was divided and is no more: take those of "
            "the model that prepare() returned"
        )
    return [new for _, new in found if new is not None]


def _newest(parameter: torch.Tensor) -> torch.Tensor | None:
    while (place := _replaced.get(parameter)) is not None:
        new = _held(place)
        if new is None:
            return None
        parameter = new
    return parameter


def _held(place: _Place) -> torch.Tensor | None:
    module = place[0]()
    return None if module is None else module._parameters.get(place[1])


# ---- an optimizer ----


def follow(optimizer: torch.optim.Optimizer, models: Sequence[nn.Module]) -> None:
    """Have an optimizer train what replaced its parameters, and step where these are mixed.

    Its groups, options, hooks and schedulers stay, and its state is divided as its parameters
    are. One that has no part in a divided model is not changed.

    Parameters
    ----------
    models
        The prepared ones.

    Raises
    ------
    AccelnbError
        Its parameters were those of a model that is divided, and it is not known which; or its
        state cannot be divided. It is not changed.
    """
    if not _replaced and not dtensors_in_use():
        return
    for model in models:
        _note_gathered(model)
    _refuse_left_behind(optimizer, models)
    groups = [current(group["params"]) for group in optimizer.param_groups]
    state = {
        new: _divided(optimizer.state[old], old, new)
        for group, parameters in zip(optimizer.param_groups, groups, strict=True)
        for old, new in zip(group["params"], parameters, strict=True)
        if new is not old and old in optimizer.state
    }
    for group, parameters in zip(optimizer.param_groups, groups, strict=True):
        for old, new in zip(group["params"], parameters, strict=True):
            if new is not old:
                optimizer.state.pop(old, None)
        # In place: what else has the list sees the new ones too.
        group["params"][:] = parameters
        _step_where_mixed(optimizer, group)
    optimizer.state.update(state)


def _note_gathered(model: nn.Module) -> None:
    """Remember whole weights that are gathered yet: the optimizer may have been made of these.

    They are after a forward pass that no backward pass has followed.
    """
    before = Parameters(model)
    reshard(model)
    before.note_replaced()


def refuse_undividable_state(optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer with state that could not be divided as its parameters will be.

    Raises
    ------
    AccelnbError
        It has stepped, and keeps something of another shape than a parameter's.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items() if isinstance(state, dict) else ():
            _refuse_undividable(key, value, parameter)


def _refuse_undividable(key: str, value: Any, parameter: torch.Tensor) -> None:
    if _is_elementwise(value, parameter) and value.shape != parameter.shape:
        raise AccelnbError(
            f"an optimizer's {key} of shape {list(value.shape)} cannot be divided as its parameter "
            f"of shape {list(parameter.shape)} is: prepare it before its first step"
        )


def _is_elementwise(value: Any, parameter: torch.Tensor) -> bool:
    """Return whether a value is more than a count of steps, say."""
    if not isinstance(value, torch.Tensor) or value.ndim == 0 < parameter.ndim:
        return False
    return not value.numel() <= 1 < parameter.numel()


def _divided(state: Any, old: torch.Tensor, new: torch.Tensor) -> Any:
    if not isinstance(state, dict) or not is_dtensor(new):
        return state
    return {key: _divided_value(key, value, old, new) for key, value in state.items()}


def _divided_value(key: str, value: Any, old: torch.Tensor, new: Any) -> Any:
    if not _is_elementwise(value, old):
        return value
    _refuse_undividable(key, value, new)
    if is_dtensor(value):
        if value.device_mesh == new.device_mesh and value.placements == new.placements:
            return value
        value = value.full_tensor()
    return like(new, value[own_slices(new)].clone())


def _step_where_mixed(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
    """Leave out ways to step that torch does not have for the parameters of a group."""
    divided = [is_dtensor(parameter) for parameter in group["params"]]
    if not any(divided):
        return
    # torch's joint steps (`foreach`, which is its default on GPUs, and `fused`) raise "got mixed
    # torch.Tensor and DTensor" where plain tensors and DTensors meet, as with tensor parallelism
    # alone. DTensors of several meshes they take.
    mixed = not all(divided)
    if mixed and group.get("foreach", False) is not False:
        group["foreach"] = False
    # Of fused steps only these know DTensors.
    knows = isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW)
    if group.get("fused") and (mixed or not knows):
        group["fused"] = False


def _watch_steps() -> None:
    """Have optimizers that are never prepared follow too, before their next step."""
    global _watched
    _up_to_date.clear()
    if not _watched:
        _watched = True
        register_optimizer_step_pre_hook(_follow_at_step)


def _follow_at_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    if optimizer in _up_to_date:
        return
    if any(p in _replaced for group in optimizer.param_groups for p in group["params"]):
        follow(optimizer, ())
    _up_to_date.add(optimizer)


# ---- one that was left behind ----


def _refuse_left_behind(optimizer: torch.optim.Optimizer, models: Sequence[nn.Module]) -> None:
    """Refuse an optimizer of what a model's parameters were before the cell itself divided it.

    Parameters of one's own, and of other models, prepared or not, are none of these.
    """
    known = {id(parameter) for model in models for parameter in model.parameters()}
    others = [
        parameter
        for group in optimizer.param_groups
        for parameter in group["params"]
        if id(parameter) not in known and parameter not in _replaced and not is_dtensor(parameter)
    ]
    if not others:
        return
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for model in models:
        its = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not any(map(is_dtensor, its)) or any(id(parameter) in held for parameter in its):
            continue
        missing = _shapes(its) - _shapes(others)
        if not missing and not _is_in_a_model(others):
            raise AccelnbError(
                f"this {type(optimizer).__name__} has {len(its)} parameters that were those of "
                f"{class_name(model)} before it was divided, and would not train it: make it "
                "of model.parameters() after that"
            )


def _shapes(parameters: Iterable[torch.Tensor]) -> Counter[tuple[int, ...]]:
    return Counter(tuple(parameter.shape) for parameter in parameters)


def _is_in_a_model(parameters: list[torch.Tensor]) -> bool:
    """Return whether some module holds one of them: the twin of a divided model, say.

    All objects are looked at. It is asked only of parameters that look like a model's former ones.
    """
    wanted = {id(parameter) for parameter in parameters}
    return any(
        id(parameter) in wanted
        for module in gc.get_objects()
        if issubclass(type(module), nn.Module)
        for parameter in (module.__dict__.get("_parameters") or {}).values()
    )
