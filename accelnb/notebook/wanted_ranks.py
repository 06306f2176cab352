"""Which ranks a cell asks for, where ranks are there already.

What a cell leaves out it takes over from those ranks: not as they turned out on this machine, but
as they were asked for. What was automatic stays so, and what a session ran before names no device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accelnb.devices import DEVICES
from accelnb.options.config import SHAPE, LaunchConfig, from_mapping

# What was chosen for one device or cluster, and is not taken over by a cell that names another.
_CHOSEN_FOR = {"device": ("procs", "start"), "cluster": ("procs", "device", "nodes", "start")}


@dataclass(frozen=True)
class Asked:
    """What a cell asks for.

    Attributes
    ----------
    config : LaunchConfig
        To be resolved: exactly the ranks that are there, if they do.
    names_device : bool
        Whether the cell or the defaults name its device, so that ranks may share one.
    shape : dict
        What later cells take over: as it was asked for, with what is automatic left so.
    defaults : LaunchConfig
        Those in force when it was asked.
    """

    config: LaunchConfig
    names_device: bool
    shape: dict[str, Any]
    defaults: LaunchConfig


def asked_by(
    given: Mapping[str, Any],
    defaults: LaunchConfig,
    before: Asked | None = None,
    there: LaunchConfig | None = None,
) -> Asked:
    """Return what a cell with the options `given` asks for.

    Parameters
    ----------
    before, there
        What the ranks that are there were asked to be, and what they are, if there are any. They
        no longer count when the defaults for their shape changed since.

    Raises
    ------
    ConfigError
        An option has a value that it cannot have.

    Examples
    --------
    >>> from accelnb.options.config import LaunchConfig
    >>> from accelnb.notebook.wanted_ranks import asked_by
    >>> first = asked_by({}, LaunchConfig())
    >>> on_gpu = LaunchConfig(procs=1, device="cuda", start="fork")
    >>> second = asked_by({"procs": 2}, LaunchConfig(), first, on_gpu)
    >>> second.config.device, second.names_device
    ('auto', False)
    """
    read = from_mapping(LaunchConfig, given, defaults)
    own = {name: getattr(read, name) for name in SHAPE if name in given}
    names_device = "device" in own or defaults.device != "auto"
    if before is None or there is None or not _same_shape(defaults, before.defaults):
        return Asked(read, names_device, shape_of(read), defaults)
    as_there = shape_of(there)
    if own.items() <= as_there.items():
        config = dataclasses.replace(read, **as_there)
        return Asked(config, True, before.shape | own, defaults)
    shape = shape_of(defaults) | _taken_over(own, before.shape, there) | own
    return Asked(dataclasses.replace(read, **shape), names_device, shape, defaults)


def shape_of(config: LaunchConfig) -> dict[str, Any]:
    """Return what must be equal for a cell to run on ranks that are there."""
    return {name: getattr(config, name) for name in SHAPE}


def _same_shape(one: LaunchConfig, other: LaunchConfig) -> bool:
    return one == other or shape_of(one) == shape_of(other)


def _taken_over(
    own: Mapping[str, Any], before: Mapping[str, Any], there: LaunchConfig
) -> dict[str, Any]:
    kept = dict(before)
    also_called = {"device": DEVICES[there.device].stands_for}
    for name, chosen_for_it in _CHOSEN_FOR.items():
        same = (before[name], getattr(there, name), also_called.get(name))
        if name in own and own[name] not in same:
            for other in chosen_for_it:
                kept.pop(other, None)
    return kept
