"""TPU chips, from PCI, device files and the environment that Colab, Kaggle and TPU VMs set."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from pathlib import Path

from accelnb.hardware.limits import entries, numbered, read

_GOOGLE = "0x1ae0"  # as PCI vendor
_GENERATIONS = {  # by PCI device
    "0x0027": "v3",
    "0x0056": "",
    "0x005e": "v4",
    "0x0062": "v5p",
    "0x0063": "v5e",
    "0x006f": "v6e",
    "0x0076": "v7",
}
_SAY_TPU = ("TPU_NAME", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_ID", "COLAB_TPU_ADDR")
_PACKAGES = ("torch_tpu", "torch_xla")


def count(root: Path, environ: Mapping[str, str], files: Collection[str]) -> int:
    """Return how many TPU chips this host has, with these `files` in /dev.

    Chips up to v4 are /dev/accel0 and so on; later ones are /dev/vfio/0, which other hardware can
    be too: these count only where PCI or the environment says that they are TPUs.
    """
    there = _numbers(root, files)
    if not there:
        return 0
    if chips := len(_generations(root)):
        return min(chips, there)
    return there if any(environ.get(name) for name in _SAY_TPU) else 0


def name(root: Path, environ: Mapping[str, str]) -> str:
    """Return e.g. ``TPU v5e``."""
    generation = next(iter(_generations(root)), "") or environ.get("TPU_ACCELERATOR_TYPE", "")
    return f"TPU {generation}".strip()


def is_remote(environ: Mapping[str, str]) -> bool:
    """Tell whether the environment names a TPU of another host, as Colab and Kaggle once did."""
    return "COLAB_TPU_ADDR" in environ or environ.get("TPU_NAME", "").startswith("grpc://")


def installed() -> str | None:
    """Return the package that drives TPUs for torch, if there is one."""
    return next((package for package in _PACKAGES if importlib.util.find_spec(package)), None)


def _numbers(root: Path, files: Collection[str]) -> int:
    if there := numbered(files, "accel"):
        return there
    if "accel" in files:
        return numbered(entries(root / "dev/accel"), "accel")
    return numbered(entries(root / "dev/vfio"), "") if "vfio" in files else 0


def _generations(root: Path) -> list[str]:
    """Return the generation of each chip on PCI."""
    devices = root / "sys/bus/pci/devices"
    there = sorted(devices.iterdir()) if devices.is_dir() else []
    found = [read(device / "device") for device in there if read(device / "vendor") == _GOOGLE]
    return [_GENERATIONS[device] for device in found if device in _GENERATIONS]
