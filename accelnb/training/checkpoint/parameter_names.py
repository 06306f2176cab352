"""The state of an optimizer by the names of its parameters, which are the same in every layout."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from accelnb.errors import AccelnbError
from accelnb.training.checkpoint.dtensors import as_shards
from accelnb.training.checkpoint.weights import unwrapped
from accelnb.training.dtensors import is_dtensor

# What modules that compile or checkpoint activations put into the names of what they wrap.
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_checkpoint_wrapped_module)\.")


def names_of(optimizer: Any, models: Sequence[nn.Module]) -> list[str]:
    """Return the names of an optimizer's parameters, in the order of its groups.

    Those of the first model have their own names, of further ones with ``model_1/`` before. What
    is in no model is called by its number.
    """
    names: dict[int, str] = {}
    for index, model in enumerate(models):
        head = f"model_{index}/" if index else ""
        for name, parameter in as_shards(unwrapped(model)).named_parameters():
            names.setdefault(id(parameter), head + _WRAPPERS.sub("", name))
    return [names.get(id(p), f"parameter {i}") for i, p in enumerate(parameters_of(optimizer))]


def parameters_of(optimizer: Any) -> list[Any]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def is_sharded(optimizer: Any) -> bool:
    """Return whether some of an optimizer's parameters are divided over ranks."""
    return any(is_dtensor(parameter) for parameter in parameters_of(optimizer))


def by_name(state: Any, names: list[str], kind: str) -> dict[str, Any]:
    """Return the state of an optimizer with names instead of numbers.

    Raises
    ------
    AccelnbError
        It is in no form that is known.
    """
    if not isinstance(state, dict) or not {"state", "param_groups"} <= state.keys():
        raise AccelnbError(
            f"the state of {kind} is not one of torch's optimizers: it cannot be saved with a "
            "sharded model"
        )
    named = dict(zip(_numbers(state), names, strict=True))
    groups = [{**g, "params": [named[n] for n in g["params"]]} for g in state["param_groups"]]
    values = {named.get(n, n): value for n, value in state["state"].items()}
    return {**state, "state": values, "param_groups": groups}


def is_by_name(state: Any) -> bool:
    groups = state.get("param_groups", ()) if isinstance(state, dict) else ()
    return any(isinstance(name, str) for group in groups for name in group["params"])


def by_number(state: dict[str, Any], names: list[str], optimizer: Any, where: str) -> Any:
    """Return a state with the numbers of the parameters as they are in this optimizer.

    One that has numbers is returned as it is.

    Raises
    ------
    AccelnbError
        It has other parameters, or has them in other groups.
    """
    if not is_by_name(state):
        return state
    numbers = {name: number for number, name in enumerate(names)}
    own, first = [], 0
    for group in optimizer.param_groups:
        own.append(names[first : first + len(group["params"])])
        first += len(group["params"])
    saved = [group["params"] for group in state["param_groups"]]
    if len(saved) != len(own):
        raise AccelnbError(f"{where} is of an optimizer with {len(saved)} groups, not {len(own)}")
    for index, (there, here) in enumerate(zip(saved, own, strict=True)):
        if missing := sorted(set(here) - set(there)):
            raise AccelnbError(f"{where}: its group {index} lacks {_some(missing)}")
        if unknown := sorted(set(there) - set(here)):
            raise AccelnbError(
                f"{where}: its group {index} has {_some(unknown)}, which is not here"
            )
    groups = [
        {**group, "params": [numbers[name] for name in here]}
        for group, here in zip(state["param_groups"], own, strict=True)
    ]
    values = {numbers.get(name, name): value for name, value in state["state"].items()}
    return {**state, "state": values, "param_groups": groups}


def _numbers(state: dict[str, Any]) -> list[Any]:
    return [number for group in state["param_groups"] for number in group["params"]]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
