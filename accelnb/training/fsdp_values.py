"""What is said of FSDP in texts, numbers and the types of its first version, as it is used."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from accelnb.errors import AccelnbError
from accelnb.options import environment


def flag(name: str, value: Any) -> bool | None:
    """Return what a text says; what is none is returned as it is."""
    if not isinstance(value, str):
        return value
    if value.lower() not in environment.YES + environment.NO:
        raise AccelnbError(f"{name}={value}: say true or false")
    return value.lower() in environment.YES


def resharding(value: Any) -> bool | int:
    """Return whether weights are resharded after a forward pass, or over how many ranks."""
    if value is None:
        return True
    if isinstance(value, int):
        return value
    if str(value).isdecimal() and int(value) > 1:
        return int(value)
    if str(value).lower() not in environment.YES + environment.NO:
        raise AccelnbError(
            f"reshard_after_forward={value}: say true or false, or a number of ranks"
        )
    return str(value).lower() in environment.YES


def choice(name: str, value: Any, kinds: Any, order: list[str]) -> Any:
    """Return a member of an enum of torch by its name, or by its number as Accelerate counts."""
    if isinstance(value, kinds):
        return value
    text = str(value).upper()
    number = order.index(text) + 1 if text in order else int(text) if text.isdecimal() else 0
    if not 1 <= number <= len(order):
        raise AccelnbError(f"{name}={value}: choose one of {', '.join(order)}")
    return kinds(number)


def mixed_precision_policy(given: Any, changes: list[str]) -> Any:
    """Return a policy of FSDP2 from a type's name, a dict or a policy of FSDP1."""
    from torch.distributed.fsdp import MixedPrecision, MixedPrecisionPolicy  # slow to import

    if isinstance(given, MixedPrecisionPolicy):
        return given
    if isinstance(given, MixedPrecision):
        if given.buffer_dtype is not None:
            changes.append("mixed_precision_policy: FSDP2 leaves buffers as they are")
        casts = given.cast_forward_inputs or given.cast_root_forward_inputs
        types = {name: getattr(given, name) for name in ("param_dtype", "reduce_dtype")}
        given = {**types, "cast_forward_inputs": casts}
    if not isinstance(given, dict):
        given = dict.fromkeys(("param_dtype", "reduce_dtype", "output_dtype"), given)
    given = dict(given)
    if given.pop("buffer_dtype", None) is not None:
        changes.append("mixed_precision_policy: FSDP2 leaves buffers as they are")
    known = {field.name for field in dataclasses.fields(MixedPrecisionPolicy)}
    if unknown := sorted(given.keys() - known):
        raise AccelnbError(
            f"mixed_precision_policy: {', '.join(unknown)} is none of {', '.join(sorted(known))}"
        )
    types = {k: dtype(v) for k, v in given.items() if k.endswith("_dtype")}
    return MixedPrecisionPolicy(**given | types)


def dtype(value: Any) -> Any:
    """Return a type of torch by its name in Accelerate."""
    known = {
        "fp8": torch.bfloat16,  # but for its linear layers
        "fp16": torch.float16,
        "bf16": torch.bfloat16,
        "fp32": torch.float32,
        "no": None,
    }
    if value is None or value in known.values():
        return value
    if value not in known:
        raise AccelnbError(f"mixed_precision_policy: {value} is none of {', '.join(known)}")
    return known[value]
