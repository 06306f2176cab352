"""What people may mean by a name that is none of a device."""

from __future__ import annotations

from typing import Any, NoReturn

from accelnb.devices.device_kinds import DEVICES
from accelnb.options.option import ConfigError


def refuse_device(value: Any) -> NoReturn:
    """Refuse what is no name of a device, with the one that may be meant.

    Examples
    --------
    >>> from accelnb.options.device_name import refuse_device
    >>> refuse_device("cuda:1")
    Traceback (most recent call last):
    ...
    accelnb.options.option.ConfigError: device=cuda:1: each rank takes a device of its own: \
choose cuda, and which ones by CUDA_VISIBLE_DEVICES
    """
    raise ConfigError(f"device={value}: {_instead_of(str(value))}", "device")


def _instead_of(text: str) -> str:
    import difflib

    choices = f"choose one of auto, {', '.join(DEVICES)}"
    if "," in text:
        return f"all ranks of a launch compute on one kind of device; {choices}"
    word, colon, _ = text.strip().lower().partition(":")
    called = (row.name for row in DEVICES.values() if word == row.name or word in row.called)
    near = difflib.get_close_matches(word, DEVICES, n=1)
    name = next(called, near[0] if near else None)
    if name is None:
        return choices
    if colon and (variable := DEVICES[name].variable):
        return f"each rank takes a device of its own: choose {name}, and which ones by {variable}"
    return f"did you mean {name}? {choices}"
