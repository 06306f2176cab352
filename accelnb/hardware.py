"""What this machine offers, found without importing torch or initialising a device."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from accelnb.devices import DEVICES


@dataclass(frozen=True)
class Hardware:
    """The devices of this machine, by kind.

    Examples
    --------
    >>> from accelnb.hardware import Hardware
    >>> Hardware({"cpu": 8, "cuda": 2}).best_device
    'cuda'
    """

    devices: dict[str, int] = field(default_factory=dict)

    @property
    def best_device(self) -> str:
        return next(device for device in DEVICES if self.count(device) or device == "cpu")

    def count(self, device: str) -> int:
        return self.devices.get(device, 0)

    def precisions(self, device: str) -> tuple[str, ...]:
        return DEVICES[device].precisions

    def start_method(self, device: str) -> str:
        forks = sys.platform.startswith("linux") and DEVICES[device].forks
        return "fork" if forks else "spawn"

    def describe(self) -> str:
        """Return e.g. ``2 cuda, 8 cpu`` for a message."""
        found = ((kind, self.count(kind)) for kind in DEVICES)
        return ", ".join(f"{count} {kind}" for kind, count in found if count)


def probe() -> Hardware:
    """Find this machine's devices from its files and environment alone."""
    devices = {"cpu": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()}
    build = torch_build()
    if build and "+cpu" not in build:
        devices["cuda"] = _visible("CUDA_VISIBLE_DEVICES", r"/dev/nvidia\d+")
        devices["xpu"] = _visible("ZE_AFFINITY_MASK", r"/dev/dri/renderD\d+") * ("+xpu" in build)
    if sys.platform == "darwin" and os.uname().machine == "arm64":
        devices["mps"] = 1
    return Hardware({kind: count for kind, count in devices.items() if count})


@functools.cache
def torch_build() -> str | None:
    """Return torch's version with its build, e.g. ``2.13.0+cpu``, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version = Path(spec.origin).with_name("version.py")
    found = re.search(r"__version__ = '([^']+)'", version.read_text()) if version.exists() else None
    return found.group(1) if found else None


def _visible(variable: str, pattern: str) -> int:
    """Count device files, of which `variable` may make only some visible."""
    folder, name = os.path.split(pattern)
    if not os.path.isdir(folder):
        return 0
    present = sum(bool(re.fullmatch(name, entry)) for entry in os.listdir(folder))
    listed = os.environ.get(variable)
    if listed is None:
        return present
    return min(present, len([part for part in listed.split(",") if part.strip() not in ("", "-1")]))
