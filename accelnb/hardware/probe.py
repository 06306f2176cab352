"""How many devices of each kind this machine has: asked by every cell, so from files alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from accelnb.devices import DEVICES
from accelnb.hardware import amd, tpu
from accelnb.hardware.limits import entries, numbered, read, usable_cpus
from accelnb.hardware.torch_build import TorchBuild, torch_build
from accelnb.hardware.visible import count_visible

_INTEL = "0x8086"  # as PCI vendor


@dataclass(frozen=True)
class Hardware:
    """The devices of this machine that ranks can compute on, by kind.

    Attributes
    ----------
    devices : dict
        Kind to number; ``cpu`` is the number of processors.
    unusable : dict
        Kind to the reason, in one line, why such devices cannot be used though they are there.

    Examples
    --------
    >>> from accelnb.hardware import Hardware
    >>> Hardware({"cpu": 8, "cuda": 2}).best_device
    'cuda'
    """

    devices: dict[str, int] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)

    @property
    def best_device(self) -> str:
        return next(device for device in DEVICES if self.count(device) or device == "cpu")

    def count(self, device: str) -> int:
        return self.devices.get(device, 0)

    def why_not(self, device: str) -> str | None:
        """Return why ranks cannot compute on `device`, None if they can.

        Examples
        --------
        >>> from accelnb.hardware import Hardware
        >>> Hardware({"cpu": 8}).why_not("cuda")
        'not found on this machine; found 8 cpu: choose auto or cpu'
        """
        if self.count(device):
            return None
        if device in self.unusable:
            return self.unusable[device]
        there = ", ".join(kind for kind in DEVICES if self.count(kind) and kind != "cpu")
        others = f"auto, {there} or cpu" if there else "auto or cpu"
        return f"not found on this machine; found {self.describe()}: choose {others}"

    def precisions(self, device: str) -> tuple[str, ...]:
        return DEVICES[device].precisions

    def start_method(self, device: str) -> str:
        forks = sys.platform.startswith("linux") and DEVICES[device].forks
        return "fork" if forks else "spawn"

    def describe(self) -> str:
        """Return e.g. ``2 cuda, 8 cpu`` for a message."""
        found = ((kind, self.count(kind)) for kind in DEVICES)
        return ", ".join(f"{count} {kind}" for kind, count in found if count)


def probe(
    root: Path = Path("/"),
    environ: Mapping[str, str] = os.environ,
    build: TorchBuild | None = None,
) -> Hardware:
    """Find this machine's devices from its files and environment alone.

    Parameters
    ----------
    root, environ
        The file system and environment to read.
    build
        The torch that ranks import; by default the one that is installed.

    Examples
    --------
    >>> from accelnb.hardware import probe
    >>> probe().count("cpu") >= 1
    True
    """
    build = build or torch_build()
    files = entries(root / "dev")
    devices = {"cpu": usable_cpus(str(root))}
    unusable = {}
    for kind, count, why_not in (
        ("cuda", *_nvidia_or_amd(root, environ, build, files)),
        ("tpu", *_tpu(root, environ, files)),
        ("xpu", *_xpu(root, environ, build)),
    ):
        if count and why_not:
            unusable[kind] = why_not
        elif count:
            devices[kind] = count
    if sys.platform == "darwin" and os.uname().machine == "arm64":
        devices["mps"] = 1
    return Hardware(devices, unusable)


def nvidia_files(root: Path, files: Collection[str]) -> int:
    """Return how many NVIDIA GPUs have a device file; in WSL 2 all have one in common."""
    if there := numbered(files, "nvidia"):
        return there
    return int("dxg" in files and (root / "usr/lib/wsl/lib/libcuda.so.1").exists())


def _nvidia_or_amd(
    root: Path, environ: Mapping[str, str], build: TorchBuild | None, files: Collection[str]
) -> tuple[int, str | None]:
    """Return how many GPUs there are for torch's ``cuda``, and why they cannot be used."""
    if build is not None and build.hip:
        if (there := amd.present(root)) and not amd.can_open(root):
            reason = "/dev/kfd is closed to this user: have yourself added to the group render"
            return there, f"{_gpus(there, 'AMD')} found, but {reason}"
        return _seen(there, amd.count(root, environ), "AMD", "HIP_VISIBLE_DEVICES")
    if there := nvidia_files(root, files):
        if build is not None and build.cuda:
            seen = count_visible(environ.get("CUDA_VISIBLE_DEVICES"), there)
            return _seen(there, seen, "NVIDIA", "CUDA_VISIBLE_DEVICES")
        return there, _wrong_torch(_gpus(there, "NVIDIA"), build, "pip install torch")
    if there := amd.present(root):
        index = "see https://pytorch.org/get-started/locally for the ROCm build"
        return there, _wrong_torch(_gpus(there, "AMD"), build, index)
    return 0, None


def _seen(there: int, seen: int, maker: str, variable: str) -> tuple[int, str | None]:
    if there and not seen:
        return there, f"{_gpus(there, maker)} found, but {variable} hides them all: unset it"
    return seen, None


def _wrong_torch(found: str, build: TorchBuild | None, install: str) -> str:
    if build is None:
        return f"{found} found, but torch is not installed: {install}"
    return f"{found} found, but torch is {build.describe()}: pip uninstall torch, then {install}"


def _gpus(count: int, maker: str) -> str:
    return f"{count} {maker} GPU{'s' * (count > 1)}"


def _tpu(root: Path, environ: Mapping[str, str], files: Collection[str]) -> tuple[int, str | None]:
    chips = tpu.count(root, environ, files)
    if not chips:
        return 0, None
    found = f"{chips} TPU chip{'s' * (chips > 1)} found"
    if tpu.installed() is None:
        return chips, f"{found}, but no package that drives them: pip install 'accelnb[tpu]'"
    if not DEVICES["tpu"].launches:
        return chips, f"{found}, but this version of accelnb starts no ranks on them"
    return chips, None


def _xpu(
    root: Path, environ: Mapping[str, str], build: TorchBuild | None
) -> tuple[int, str | None]:
    if build is None or not build.xpu:  # nearly every PC has a GPU of Intel's: say nothing
        return 0, None
    nodes = (root / "sys/class/drm").glob("renderD*")
    there = sum(read(node / "device/vendor") == _INTEL for node in nodes)
    listed = environ.get("ZE_AFFINITY_MASK")
    cards = ",".join(dict.fromkeys(part.partition(".")[0] for part in (listed or "").split(",")))
    seen = count_visible(cards if listed is not None else None, there)
    return _seen(there, seen, "Intel", "ZE_AFFINITY_MASK")
