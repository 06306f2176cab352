"""Whether this process uses a device already: then a fork of it could not use it any more."""

from __future__ import annotations

import sys

from accelnb.devices import DEVICES
from accelnb.engine.launchers.open_files import open_files

# What is open in a process that has begun to use a device, whoever began it: NVIDIA's runtime
# opens the first, AMD's the second. Asking NVML opens none of them.
_OPEN_FILES = ("/dev/nvidia-uvm", "/dev/kfd")


def device_in_use() -> str | None:
    """Return what shows that this process uses a device, None if nothing does.

    Examples
    --------
    >>> from accelnb.worker.device_in_use import device_in_use
    >>> print(device_in_use())
    None
    """
    torch = sys.modules.get("torch")
    for kind in DEVICES.values():
        module = getattr(torch, kind.type, None)
        has_begun = getattr(module, "is_initialized", None)
        if kind.type != "cpu" and has_begun is not None and has_begun():
            return f"torch.{kind.type} is initialized"
    return next((f"{file} is open" for file in open_files().values() if file in _OPEN_FILES), None)
