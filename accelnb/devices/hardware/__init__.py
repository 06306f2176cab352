"""What this machine offers, found without importing torch or initialising a device.

`probe` is what every cell asks: counts, in microseconds. `inspect_machine` is what a person asks:
names, memory, what each device can do, and what is wrong.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelnb.devices.hardware.probe import Hardware, probe
from accelnb.devices.hardware.torch_build import TorchBuild, torch_build

if TYPE_CHECKING:
    from accelnb.devices.hardware.machine import Machine

__all__ = ["Hardware", "TorchBuild", "inspect_machine", "probe", "torch_build"]


def inspect_machine(
    root: Path = Path("/"), environ: Mapping[str, str] = os.environ, nvml: Any = None
) -> Machine:
    """Describe this machine; takes some milliseconds, with NVIDIA GPUs up to a second.

    Parameters
    ----------
    root, environ
        The file system and environment to read.
    nvml
        What answers for the NVIDIA driver: by default the module ``pynvml``.

    Examples
    --------
    >>> from accelnb.devices.hardware import inspect_machine
    >>> machine = inspect_machine()
    >>> machine.processor.count >= 1 and machine.memory.total > 0
    True
    """
    from accelnb.devices.hardware.machine import inspect

    return inspect(root, environ, nvml)
