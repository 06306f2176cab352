"""AMD GPUs, from what the kernel's driver writes in /sys: no ROCm library is asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from accelnb.devices.hardware.usable_resources import read
from accelnb.devices.hardware.visible_devices import count_visible, visible

# What chooses among the GPUs; the last where the one before it is not set.
VARIABLES = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")

_NODES = "sys/class/kfd/kfd/topology/nodes"


class AmdGpu(NamedTuple):
    """A GPU as the driver describes it."""

    name: str
    architecture: str
    uuid: str
    memory: int | None
    free: int | None


def count(root: Path, environ: Mapping[str, str]) -> int:
    """Return how many GPUs a process sees that HIP and ROCr choose for."""
    at_rocr = count_visible(environ.get("ROCR_VISIBLE_DEVICES"), present(root))
    return count_visible(_hip_list(environ), at_rocr)


def present(root: Path) -> int:
    """Return how many GPUs the driver has."""
    return len(_nodes(root)) if (root / _NODES).is_dir() else 0


def can_open(root: Path) -> bool:
    """Tell whether this process may use the driver at all."""
    return os.access(root / "dev/kfd", os.R_OK | os.W_OK)


def gpus(root: Path, environ: Mapping[str, str]) -> list[AmdGpu]:
    """Return the visible GPUs in the order that torch numbers them."""
    there = [_gpu(root, node) for node in _nodes(root)]
    there = _chosen(there, environ.get("ROCR_VISIBLE_DEVICES"))
    return _chosen(there, _hip_list(environ))


def _hip_list(environ: Mapping[str, str]) -> str | None:
    return environ.get("HIP_VISIBLE_DEVICES", environ.get("CUDA_VISIBLE_DEVICES"))


def _chosen(there: list[AmdGpu], listed: str | None) -> list[AmdGpu]:
    return [there[at] for at in visible(listed, [gpu.uuid for gpu in there])]


def _nodes(root: Path) -> list[dict[str, str]]:
    """Return the properties of each node that is a GPU and that we may read."""
    if not (root / _NODES).is_dir():
        return []
    folders = sorted((root / _NODES).iterdir(), key=lambda folder: int(folder.name))
    nodes = []
    for folder in folders:
        fields = (line.split(" ", 1) for line in read(folder / "properties").splitlines())
        node = {field[0]: field[1].strip() for field in fields if len(field) == 2}
        if int(node.get("simd_count", 0)):
            nodes.append(node)
    return nodes


def _gpu(root: Path, node: dict[str, str]) -> AmdGpu:
    device = root / f"sys/class/drm/renderD{node.get('drm_render_minor')}/device"
    version = int(node.get("gfx_target_version", 0))  # 90402 is gfx942
    architecture = f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"
    total, used = (read(device / f"mem_info_vram_{name}") for name in ("total", "used"))
    return AmdGpu(
        read(device / "product_name") or f"AMD GPU ({architecture})",
        architecture,
        f"GPU-{int(node.get('unique_id', 0)):x}",
        int(total) if total else None,
        int(total) - int(used) if total and used else None,
    )
