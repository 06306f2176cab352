"""The kinds of devices: the one table that the probe, the ranks, training and the panel read."""

from __future__ import annotations

from accelnb.devices.device import Device
from accelnb.devices.torch_plugins import PLUGINS
from accelnb.devices.xla_device import XlaDevice

_GPU = ("no", "fp16", "bf16")

# Best first: a launch without a device takes the first that the machine has.
DEVICES = {
    device.name: device
    for device in (
        Device(
            "cuda",
            "cuda",
            "cpu:gloo,cuda:nccl",
            "MULTI_GPU",
            (*_GPU, "fp8"),
            starts=("fork", "spawn"),
            aborts=True,
            shares="asked",
            variable="CUDA_VISIBLE_DEVICES",
            title="NVIDIA GPU",
            called=("gpu", "nvidia"),
            meter="nvml",
            resource="GPU",
            run_on="one H200, torch 2.11, 2026-11-26; not on several at once",
            ran_on_one=True,
        ),
        Device(
            "rocm",
            "cuda",
            "cpu:gloo,cuda:nccl",
            "MULTI_GPU",
            (*_GPU, "fp8"),
            aborts=True,
            shares="asked",
            variable="HIP_VISIBLE_DEVICES",
            stands_for="cuda",
            title="AMD GPU",
            called=("amd", "hip"),
            resource="GPU",
        ),
        Device(
            "tpu",
            "tpu",
            "cpu:gloo,tpu:tpu_dist",
            "XLA",
            ("no", "bf16"),
            rejoins=False,
            prepared=True,
            resource="TPU",
            package="torch_tpu",
            install="pip install 'accelnb[tpu]'",
            title="TPU",
        ),
        XlaDevice(
            "xla",
            "xla",
            "xla_gloo",
            "XLA",
            ("no", "bf16"),
            starts=("xla",),
            records=True,
            rejoins=False,
            resource="TPU",
            package="torch_xla",
            install="pip install 'accelnb[tpu-xla]'",
            stands_for="tpu",
            title="TPU",
            run_on="its CPU device only, torch_xla 2.9, 2026-11-24",
        ),
        Device(
            "xpu",
            "xpu",
            "cpu:gloo,xpu:xccl",
            "MULTI_XPU",
            _GPU,
            variable="ZE_AFFINITY_MASK",
            title="Intel GPU",
            called=("intel", "arc"),
        ),
        *PLUGINS,
        # Only one process computes on it: it has no backend for collectives.
        Device(
            "mps",
            "mps",
            "gloo",
            "NO",
            _GPU,
            title="Apple GPU",
            called=("apple", "metal", "mac"),
        ),
        Device(
            "cpu",
            "cpu",
            "gloo",
            "MULTI_CPU",
            ("no", "bf16", "fp16"),
            starts=("fork", "spawn"),
            shares="always",
            title="processor",
            called=("host",),
            resource="CPU",
            run_on="2 cores, Debian 12, torch 2.13, 2026-11-24",
        ),
    )
}


def records(device_type: str) -> bool:
    """Return whether operations on this type of torch's devices are recorded first."""
    return device_type in DEVICES and DEVICES[device_type].records


def best_available() -> Device:
    """Return the best kind of device that torch can use in this process."""
    return next(device for device in DEVICES.values() if device.is_available())
