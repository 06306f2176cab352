"""Devices as device maps name them: a number is that of an accelerator."""

from __future__ import annotations

import torch

from accelnb.big_model.errors import BigModelError
from accelnb.devices import Device, best_available

Place = int | str | torch.device


def accelerator() -> Device | None:
    """Return the kind of accelerator that torch can use here, None on a machine without one."""
    best = best_available()
    return None if best.type == "cpu" else best


def as_device(place: Place) -> torch.device:
    """Return torch's device for what a device map says.

    Raises
    ------
    BigModelError
        It is a number, and there is no accelerator.

    Examples
    --------
    >>> from accelnb.big_model.places import as_device
    >>> as_device("cpu")
    device(type='cpu')
    """
    if not isinstance(place, int):
        return torch.device(place)
    kind = accelerator()
    if kind is None:
        raise BigModelError(
            f"device {place} is an accelerator's number, and torch sees none here: put the part on "
            "'cpu' or 'disk'"
        )
    return torch.device(kind.type, place)


def is_same_device(one: torch.device, other: torch.device) -> bool:
    """Return whether two devices are one: without a number the first of its kind is meant.

    Examples
    --------
    >>> import torch
    >>> from accelnb.big_model.places import is_same_device
    >>> is_same_device(torch.device("cuda"), torch.device("cuda:0"))
    True
    """
    return one.type == other.type and (one.index or 0) == (other.index or 0)
