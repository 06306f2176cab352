"""How many devices of each kind this machine has: asked by every cell, so from files alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from accelnb.devices import DEVICES
from accelnb.devices.hardware import amd, tpu
from accelnb.devices.hardware.torch_build import TorchBuild, torch_build
from accelnb.devices.hardware.usable_resources import entries, numbered, read, usable_cpus
from accelnb.devices.hardware.visible_devices import count_visible

_INTEL = "0x8086"  # as PCI vendor
_PLUGINS = [row for row in DEVICES.values() if row.files]
_BEGINS = tuple(row.files.partition("/")[0] for row in _PLUGINS)


@dataclass(frozen=True)
class Hardware:
    """The devices of this machine that ranks can compute on, by kind.

    Attributes
    ----------
    devices : dict
        Kind to number; ``cpu`` is the number of processors.
    unusable : dict
        Kind to the reason, in one line, why such devices cannot be used though they are there.
    place : str
        Where the devices are, for a message.

    Examples
    --------
    >>> from accelnb.devices.hardware import Hardware
    >>> Hardware({"cpu": 8, "cuda": 2}).best_device
    'cuda'
    """

    devices: dict[str, int] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    place: str = "this machine"

    @property
    def best_device(self) -> str:
        return next(device for device in DEVICES if self.count(device) or device == "cpu")

    def count(self, device: str) -> int:
        return self.devices.get(device, 0)

    def is_there(self, device: str) -> bool:
        """Return whether this machine has such devices, be they usable or not."""
        return self.count(device) > 0 or device in self.unusable

    def offered(self) -> tuple[str, ...]:
        """Return what a person can choose for ``--device``: of torch's plugins, those there.

        Examples
        --------
        >>> from accelnb.devices.hardware import Hardware
        >>> Hardware({"cpu": 8, "npu": 2}).offered()
        ('auto', 'cuda', 'rocm', 'xpu', 'npu', 'mps', 'cpu')
        """
        rows = DEVICES.values()
        there = (r.name for r in rows if not r.package or self.is_there(self.known_as(r.name)))
        return ("auto", *there)

    def why_not(self, device: str) -> str | None:
        """Return why ranks cannot compute on `device`, None if they can.

        Examples
        --------
        >>> from accelnb.devices.hardware import Hardware
        >>> Hardware({"cpu": 8}).why_not("cuda")
        'not found on this machine; found 8 cpu: choose auto or cpu'
        """
        if self.count(device):
            return None
        for name in (device, *(r.name for r in DEVICES.values() if r.stands_for == device)):
            if name in self.unusable:
                return self.unusable[name]
        there = ", ".join(kind for kind in DEVICES if self.count(kind) and kind != "cpu")
        others = f"auto, {there} or cpu" if there else "auto or cpu"
        return f"not found on {self.place}; found {self.describe()}: choose {others}"

    def known_as(self, device: str) -> str:
        """Return the name of what people mean by `device` on this machine.

        Examples
        --------
        >>> from accelnb.devices.hardware import Hardware
        >>> Hardware({"rocm": 2}).known_as("cuda")
        'rocm'
        """
        if self.count(device):
            return device
        others = (row.name for row in DEVICES.values() if row.stands_for == device)
        return next((name for name in others if self.count(name)), device)

    def precisions(self, device: str) -> tuple[str, ...]:
        return DEVICES[device].precisions

    def start_methods(self, device: str) -> tuple[str, ...]:
        """Return how a rank on `device` can start here, the fastest first."""
        forks = sys.platform.startswith("linux")
        return tuple(how for how in DEVICES[device].starts if how != "fork" or forks)

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
    >>> from accelnb.devices.hardware import probe
    >>> probe().count("cpu") >= 1
    True
    """
    build = build or torch_build()
    files = entries(root / "dev")
    devices = {"cpu": usable_cpus(str(root))}
    unusable = {}
    for kind, count, why_not in (
        _nvidia_or_amd(root, environ, build, files),
        _tpu(root, environ, build, files),
        _xpu(root, environ, build),
        *_plugins(root, environ, files),
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
) -> tuple[str, int, str | None]:
    """Return what GPUs there are for torch's ``cuda``, how many, and why they cannot be used."""
    if build is not None and build.hip:
        if (there := amd.present(root)) and not amd.can_open(root):
            reason = "/dev/kfd is closed to this user: have yourself added to the group render"
            return "rocm", there, f"{_found('rocm', there)}, but {reason}"
        hides = " or ".join(name for name in amd.VARIABLES if name in environ)
        return _seen("rocm", there, amd.count(root, environ), hides)
    if there := nvidia_files(root, files):
        if build is not None and build.cuda:
            seen = count_visible(environ.get("CUDA_VISIBLE_DEVICES"), there)
            return _seen("cuda", there, seen)
        return "cuda", there, _wrong_torch(_found("cuda", there), build, "pip install torch")
    if there := amd.present(root):
        index = "see https://pytorch.org/get-started/locally for the ROCm build"
        return "rocm", there, _wrong_torch(_found("rocm", there), build, index)
    return "cuda", 0, None


def _seen(kind: str, there: int, seen: int, hides: str = "") -> tuple[str, int, str | None]:
    if there and not seen:
        variable = hides or DEVICES[kind].variable
        return kind, there, f"{_found(kind, there)}, but {variable} hides them all: unset it"
    return kind, seen, None


def _wrong_torch(found: str, build: TorchBuild | None, install: str) -> str:
    if build is None:
        return f"{found}, but torch is not installed: {install}"
    return f"{found}, but torch is {build.describe()}: pip uninstall torch, then {install}"


def _found(kind: str, count: int) -> str:
    return f"{count} {DEVICES[kind].title}{'s' * (count > 1)} found"


def _tpu(
    root: Path, environ: Mapping[str, str], build: TorchBuild | None, files: Collection[str]
) -> tuple[str, int, str | None]:
    """Return by which package TPU chips are driven, for how many ranks, and why they are not."""
    tries = tpu.stands_in(environ)
    chips = 1 if tries else tpu.count(root, environ, files)
    if not chips:
        return "tpu", 0, None
    package, why_not = tpu.driver(build, root, environ)
    kind = next((row.name for row in DEVICES.values() if row.package == package), "tpu")
    if tries:  # only torch_xla can, and nobody else is to hear of it
        return kind, int(kind == "xla"), why_not
    found = f"{chips} TPU chip{'s' * (chips > 1)} found"
    if why_not is not None:
        return kind, chips, f"{found}, but {why_not}"
    # Two cores on a chip are driven by one process, which then drives those of all chips.
    return kind, 1 if tpu.cores_per_chip(root, environ) > 1 else chips, None


def _xpu(
    root: Path, environ: Mapping[str, str], build: TorchBuild | None
) -> tuple[str, int, str | None]:
    if build is None or not build.xpu:  # nearly every PC has a GPU of Intel's: say nothing
        return "xpu", 0, None
    nodes = (root / "sys/class/drm").glob("renderD*")
    there = sum(read(node / "device/vendor") == _INTEL for node in nodes)
    listed = environ.get("ZE_AFFINITY_MASK")
    cards = ",".join(dict.fromkeys(part.partition(".")[0] for part in (listed or "").split(",")))
    seen = count_visible(cards if listed is not None else None, there)
    return _seen("xpu", there, seen)


def _plugins(
    root: Path, environ: Mapping[str, str], files: Collection[str]
) -> Iterator[tuple[str, int, str | None]]:
    """Yield the devices of torch's plugins, which are counted by their device files alone."""
    if not any(name.startswith(_BEGINS) for name in files):
        return  # as nearly everywhere: a cell does not wait for more
    for row in _PLUGINS:
        folder, _, stem = row.files.rpartition("/")
        if folder:
            there = numbered(entries(root / "dev" / folder), stem) if folder in files else 0
        else:
            there = numbered(files, stem)
        if there and (missing := row.missing()):
            yield row.name, there, f"{_found(row.name, there)}, but {missing}"
        else:
            yield _seen(row.name, there, count_visible(environ.get(row.variable), there))
