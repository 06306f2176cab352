"""How much memory the ranks' processes hold, read from outside them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from accelnb.devices import DEVICES
from accelnb.engine.process.procfs import resident


class Held(NamedTuple):
    """Bytes that a process holds, None if the system does not tell."""

    memory: int | None
    on_device: int | None


class MemoryMeter:
    """Reads the memory of processes; asks none of them.

    Parameters
    ----------
    device
        What the processes compute on; of NVIDIA's NVML tells what each holds there.

    Examples
    --------
    >>> import os
    >>> from accelnb.engine.launchers.memory_meter import MemoryMeter
    >>> memory, on_device = MemoryMeter("cpu").read([os.getpid()])[os.getpid()]
    >>> memory > 1_000_000, on_device
    (True, None)
    """

    def __init__(self, device: str) -> None:
        self._nvml: Any = None
        self._asks_nvml = DEVICES[device].meter == "nvml"

    def read(self, pids: Sequence[int]) -> dict[int, Held]:
        """Return the bytes that each process holds in memory and on its device."""
        on_device = self._on_devices()
        return {pid: Held(resident(pid), on_device.get(pid)) for pid in pids}

    def _on_devices(self) -> dict[int, int]:
        if not self._asks_nvml:
            return {}
        if self._nvml is None:
            self._nvml = _nvml()
            self._asks_nvml = self._nvml is not None
        return _held(self._nvml) if self._nvml is not None else {}


def _nvml() -> Any | None:
    """Return NVML's Python module, ready to be asked, if there is a driver for it."""
    try:
        import pynvml  # of nvidia-ml-py

        pynvml.nvmlInit()
    except Exception:  # no such package, library or driver; each has an error of its own
        return None
    return pynvml


def _held(nvml: Any) -> dict[int, int]:
    """Return the bytes that each process holds on all GPUs, for processes NVML can see."""
    held: dict[int, int] = {}
    for index in range(nvml.nvmlDeviceGetCount()):
        with contextlib.suppress(nvml.NVMLError):
            device = nvml.nvmlDeviceGetHandleByIndex(index)
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(device):
                if process.usedGpuMemory:
                    held[process.pid] = held.get(process.pid, 0) + process.usedGpuMemory
    return held
