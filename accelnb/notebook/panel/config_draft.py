"""What is chosen in the panel: one configuration, always checked against the machine."""

from __future__ import annotations

import dataclasses
from typing import Any

from accelnb.devices import DEVICES
from accelnb.devices.hardware import Hardware
from accelnb.engine.launchers.choice import hardware_known
from accelnb.options.config import ConfigError, LaunchConfig, options, possible, resolve

# What a cluster may have that was not reached yet: whatever can be asked of one.
_ANYTHING = Hardware(
    {r.name: 1 << 20 for r in DEVICES.values() if r.resource and not r.stands_for},
    dict.fromkeys(DEVICES, "a cluster does not count such devices"),
)

BY_NAME = {option.name: option for option in options(LaunchConfig)}


class Draft:
    """A configuration while it is being chosen.

    Parameters
    ----------
    config
        Where it starts.
    hardware
        What it must be possible on, if it is for this machine.

    Attributes
    ----------
    config : LaunchConfig
        The values chosen, without those that could not be read.
    unread : dict
        For each option that was given what cannot be read, why.
    errors : dict
        For each option whose value is wrong, why; those of `unread` too.
    resolved : LaunchConfig or None
        With all that is automatic filled in; None if something is wrong or not known.
    moved : dict
        For each option that the newest choice put back to its default, why.

    Examples
    --------
    >>> from accelnb.options.config import LaunchConfig
    >>> from accelnb.devices.hardware import Hardware
    >>> draft = Draft(LaunchConfig(), Hardware({"cpu": 8, "cuda": 2}))
    >>> draft.choose("precision", "fp8")
    >>> draft.choose("device", "cpu")
    >>> draft.config.precision, draft.moved["precision"]
    ('no', 'fp8 is not possible any more (cpu cannot; choose one of no, bf16, fp16): now no')
    """

    def __init__(self, config: LaunchConfig, hardware: Hardware) -> None:
        self._hardware = hardware
        self.replace(config)

    def replace(self, config: LaunchConfig) -> None:
        """Start anew from `config`."""
        self.config = config
        self.unread: dict[str, str] = {}
        self.moved: dict[str, str] = {}
        self.check()

    def choose(self, name: str, value: Any) -> None:
        """Give an option a value, as typed or as it is."""
        self.unread.pop(name, None)
        try:
            read = BY_NAME[name].read(value)
        except ConfigError as error:
            self.unread[name] = _without_name(str(error), name, value)
        else:
            self.config = dataclasses.replace(self.config, **{name: read})
        self._move_what_became_impossible(name)
        self.check()

    def check(self) -> None:
        """Say anew what is possible and what is wrong."""
        hardware = self.hardware
        self.why = possible(self.config, hardware or _ANYTHING)
        self.errors = dict(self.unread)
        self.resolved: LaunchConfig | None = None
        try:
            resolved = resolve(self.config, hardware or _ANYTHING)
            self.resolved = resolved if hardware else None
        except ConfigError as error:
            name = error.option or "device"
            value = BY_NAME[name].write(getattr(self.config, name))
            self.errors.setdefault(name, _without_name(str(error), name, value))

    @property
    def first_error(self) -> str | None:
        """What must be put right before anything can be done, if something must be."""
        return next((f"{name}: {why}" for name, why in self.errors.items()), None)

    @property
    def hardware(self) -> Hardware | None:
        """What there is where the ranks are to run, None if that is not known yet."""
        return self._hardware if self.config.cluster == "local" else hardware_known(self.config)

    def in_force(self, name: str) -> Any:
        """Return the value that an option has there, as far as that is known."""
        return getattr(self.resolved or self.config, name)

    def _move_what_became_impossible(self, chosen: str) -> None:
        self.moved = {}
        for name, why in possible(self.config, self.hardware or _ANYTHING).items():
            value, default = getattr(self.config, name), BY_NAME[name].default
            if name == chosen or value == default or why[value] is None:
                continue
            self.config = dataclasses.replace(self.config, **{name: default})
            self.moved[name] = f"{value} is not possible any more ({why[value]}): now {default}"


def _without_name(text: str, name: str, value: Any) -> str:
    """Leave out the start of an error that its place beside the control says already."""
    return text.removeprefix(f"{name}={value}: ")
