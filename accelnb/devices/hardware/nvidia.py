"""NVIDIA GPUs, as the driver's management library tells them: CUDA is not initialised."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from accelnb.devices.hardware.visible_devices import visible


class NvidiaGpu(NamedTuple):
    """A GPU, or an instance of one that is split (MIG)."""

    index: int
    uuid: str
    name: str
    version: tuple[int, int]
    memory: int | None
    free: int | None
    instances: tuple[NvidiaGpu, ...] = ()


class Nvidia(NamedTuple):
    """What the driver says.

    Attributes
    ----------
    driver, cuda : str or None
        Its version, and the newest CUDA that it supports.
    gpus : tuple of NvidiaGpu
        All of the machine, visible or not.
    problem : str or None
        Why it does not answer, and what to do.
    """

    driver: str | None = None
    cuda: str | None = None
    gpus: tuple[NvidiaGpu, ...] = ()
    problem: str | None = None


_PROBLEMS = {
    "NVMLError_LibraryNotFound": "no NVIDIA driver is installed: libnvidia-ml.so.1 is missing",
    "NVMLError_DriverNotLoaded": "the NVIDIA driver is not loaded; nvidia-smi says more",
    "NVMLError_LibRmVersionMismatch": "the NVIDIA driver was updated: restart the machine",
    "NVMLError_NoPermission": "the NVIDIA driver is closed to this user: see /dev/nvidiactl",
}


def ask(nvml: Any = None) -> Nvidia:
    """Ask the driver.

    Parameters
    ----------
    nvml
        By default the module ``pynvml``; anything with its functions will do.
    """
    if nvml is None:
        try:
            import pynvml as nvml
        except ImportError:
            return Nvidia(problem="the driver cannot be asked: pip install nvidia-ml-py")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Nvidia(problem=_PROBLEMS.get(type(error).__name__, f"NVIDIA driver: {error}"))
    try:
        cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
        gpus = tuple(_gpus(nvml))
        driver = nvml.nvmlSystemGetDriverVersion()
        return Nvidia(driver, f"{cuda // 1000}.{cuda % 1000 // 10}", gpus)
    except nvml.NVMLError as error:
        return Nvidia(problem=f"NVIDIA driver: {error}; nvidia-smi says more")
    finally:
        nvml.nvmlShutdown()


def visible_gpus(gpus: tuple[NvidiaGpu, ...], listed: str | None) -> list[NvidiaGpu]:
    """Return the GPUs that CUDA shows with this ``CUDA_VISIBLE_DEVICES``, in its order.

    Of split GPUs it shows a process one instance only.

    Examples
    --------
    >>> from accelnb.devices.hardware.nvidia import NvidiaGpu, visible_gpus
    >>> two = [NvidiaGpu(i, f"GPU-{i}", "L4", (8, 9), None, None) for i in range(2)]
    >>> [gpu.index for gpu in visible_gpus(tuple(two), "1")]
    [1]
    """
    instances = [instance for gpu in gpus for instance in gpu.instances]
    if listed is not None and listed.strip().startswith("MIG-"):
        chosen = visible(listed.split(",")[0], [instance.uuid for instance in instances])
        return [instances[at] for at in chosen]
    shown = [gpus[at] for at in visible(listed, [gpu.uuid for gpu in gpus])]
    whole = [gpu for gpu in shown if not gpu.instances]
    return whole or [gpu.instances[0] for gpu in shown[:1]]


def _gpus(nvml: Any) -> Iterator[NvidiaGpu]:
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        gpu = _gpu(nvml, index, handle)
        yield gpu._replace(instances=tuple(_instances(nvml, gpu, handle)))


def _gpu(nvml: Any, index: int, handle: Any) -> NvidiaGpu:
    version = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    memory = free = None
    with contextlib.suppress(nvml.NVMLError):  # GPUs that share the system's memory have none
        info = nvml.nvmlDeviceGetMemoryInfo(handle)
        memory, free = info.total, info.free
    name, uuid = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle)
    return NvidiaGpu(index, uuid, name, tuple(version), memory, free)


def _instances(nvml: Any, gpu: NvidiaGpu, handle: Any) -> Iterator[NvidiaGpu]:
    try:
        is_split, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # a GPU that cannot be split
        return
    for at in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle) if is_split else 0):
        with contextlib.suppress(nvml.NVMLError):  # a place without an instance
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, at)
            info = nvml.nvmlDeviceGetMemoryInfo(instance)
            uuid, name = nvml.nvmlDeviceGetUUID(instance), nvml.nvmlDeviceGetName(instance)
            yield NvidiaGpu(gpu.index, uuid, name, gpu.version, info.total, info.free)
