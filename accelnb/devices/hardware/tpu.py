"""TPU chips, from PCI, device files and the environment that Colab, Kaggle and TPU VMs set."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Collection, Mapping
from pathlib import Path

from accelnb.devices import DEVICES
from accelnb.devices.hardware.torch_build import TorchBuild
from accelnb.devices.hardware.usable_resources import entries, numbered, read

_GOOGLE = "0x1ae0"  # as PCI vendor
_OLD = "v2 or v3"
_GENERATIONS = {  # by PCI device
    "0x0027": _OLD,
    "0x0056": "",
    "0x005e": "v4",
    "0x0062": "v5p",
    "0x0063": "v5e",
    "0x006f": "v6e",
    "0x0076": "v7",
}
_OTHER_NAMES = {"v5litepod": "v5e", "v5lite": "v5e", "tpu7x": "v7"}
_TWO_CORES = ("v2", "v3", _OLD)
_SAY_TPU = ("TPU_NAME", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_ID", "COLAB_TPU_ADDR")
_TORCH_TPU_NEEDS = (2, 11)  # as torch version


def count(root: Path, environ: Mapping[str, str], files: Collection[str]) -> int:
    """Return how many TPU chips this host has, with these `files` in /dev.

    Chips up to v4 are /dev/accel0 and so on; later ones are /dev/vfio/0, which other hardware can
    be too: these count only where PCI or the environment says that they are TPUs.
    """
    there = _numbers(root, files)
    if not there:
        return 0
    if chips := len(_on_pci(root)):
        return min(chips, there)
    return there if any(environ.get(name) for name in _SAY_TPU) else 0


def generation(root: Path, environ: Mapping[str, str]) -> str:
    """Return e.g. ``v5e``, empty if nothing says which.

    Examples
    --------
    >>> from pathlib import Path
    >>> from accelnb.devices.hardware import tpu
    >>> tpu.generation(Path("/nowhere"), {"TPU_ACCELERATOR_TYPE": "v5litepod-8"})
    'v5e'
    """
    on_pci = next(iter(_on_pci(root)), "")
    said = environ.get("TPU_ACCELERATOR_TYPE", "").partition("-")[0]
    if said and on_pci in ("", _OLD):
        return _OTHER_NAMES.get(said, said)
    return on_pci


def cores_per_chip(root: Path, environ: Mapping[str, str]) -> int:
    """Return how many devices torch_xla sees in a chip: one process has to drive them all."""
    return 2 if generation(root, environ) in _TWO_CORES else 1


def name(root: Path, environ: Mapping[str, str]) -> str:
    """Return e.g. ``TPU v5e``."""
    return f"TPU {generation(root, environ)}".strip()


def is_remote(environ: Mapping[str, str]) -> bool:
    """Tell whether the environment names a TPU of another host, as Colab and Kaggle once did."""
    return "COLAB_TPU_ADDR" in environ or environ.get("TPU_NAME", "").startswith("grpc://")


def stands_in(environ: Mapping[str, str]) -> bool:
    """Tell whether torch_xla is to compute on the CPU, for a try without a TPU.

    Examples
    --------
    >>> from accelnb.devices.hardware import tpu
    >>> tpu.stands_in({"PJRT_DEVICE": "CPU"})
    True
    """
    return environ.get("PJRT_DEVICE", "").partition("_")[0] == "CPU"


def driver(
    build: TorchBuild | None, root: Path, environ: Mapping[str, str]
) -> tuple[str | None, str | None]:
    """Return the package that drives the TPU with this torch, and why there is none that can.

    If both are installed, the one that fits torch does.
    """
    here = {name: version for name in ("torch_tpu", "torch_xla") if (version := _version(name))}
    if not here:
        return None, f"no package that drives them: {DEVICES['tpu'].install}"
    reasons = {}
    for package, version in here.items():
        reasons[package] = _why_not(package, version, build, generation(root, environ))
        if reasons[package] is None:
            return package, None
    return next(iter(reasons.items()))


def _why_not(package: str, version: str, build: TorchBuild | None, generation: str) -> str | None:
    if build is None:
        return "torch is not installed: pip install torch"
    torch = ".".join(build.version.split(".")[:2])
    older = "pip install 'torch==2.9.*' 'accelnb[tpu-xla]'"
    if package == "torch_xla":
        if torch == ".".join(version.split(".")[:2]):
            return None
        newer = "pip uninstall torch_xla and pip install 'accelnb[tpu]' for torch >= 2.11"
        return (
            f"torch_xla {version} does not load with torch {build.version}, only with that of its "
            f"own number: {older}, or {newer}"
        )
    if generation in _TWO_CORES:
        return f"torch_tpu does not know TPU {generation}: {older}"
    if tuple(int(part) for part in torch.split(".")) < _TORCH_TPU_NEEDS:
        return (
            f"torch_tpu {version} needs torch 2.11 or later and this is {build.version}: "
            f"pip install --upgrade torch, or {older}"
        )
    return None


def _version(package: str) -> str | None:
    """Return the version of an installed package; one may be installed at any time."""
    return _read_version(package) if importlib.util.find_spec(package) else None


@functools.cache
def _read_version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _numbers(root: Path, files: Collection[str]) -> int:
    if there := numbered(files, "accel"):
        return there
    if "accel" in files:
        return numbered(entries(root / "dev/accel"), "accel")
    return numbered(entries(root / "dev/vfio"), "") if "vfio" in files else 0


def _on_pci(root: Path) -> list[str]:
    """Return the generation of each chip on PCI."""
    devices = root / "sys/bus/pci/devices"
    there = sorted(devices.iterdir()) if devices.is_dir() else []
    found = [read(device / "device") for device in there if read(device / "vendor") == _GOOGLE]
    return [_GENERATIONS[device] for device in found if device in _GENERATIONS]
