"""What each kind of device is: the one table that the probe, the ranks and training read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Device:
    """One kind of device, under the name that torch gives it.

    Attributes
    ----------
    name : str
        As in ``torch.device(name)``; ``tpu`` is ``xla`` there.
    backend : str
        Of a process group whose ranks compute on it, as ``init_process_group`` takes it. With
        an accelerator, collectives on CPU tensors go through gloo.
    kind : str
        What Accelerate calls several processes on it (`DistributedType`).
    precisions : tuple of str
        Mixed precision that ranks can train in. What a single card lacks (bf16 before Ampere,
        say) torch reports itself.
    forks : bool
        Whether a process that was forked after ``import torch`` can use it.
    """

    name: str
    backend: str
    kind: str
    precisions: tuple[str, ...]
    forks: bool = False

    def take(self, local_rank: int) -> torch.device:
        """Make this process compute on its own device of this kind; return that device.

        Examples
        --------
        >>> from accelnb.devices import DEVICES
        >>> DEVICES["cpu"].take(local_rank=1)
        device(type='cpu')
        """
        import torch

        module: Any = getattr(torch, self.name, None)
        if self.name == "cpu" or not hasattr(module, "set_device"):
            return torch.device(self.name)
        device = torch.device(self.name, local_rank % module.device_count())
        module.set_device(device)
        return device


# Best first: a launch without a device takes the first that the machine has.
DEVICES = {
    device.name: device
    for device in (
        Device(
            "cuda", "cpu:gloo,cuda:nccl", "MULTI_GPU", ("no", "fp16", "bf16", "fp8"), forks=True
        ),
        Device("tpu", "xla", "XLA", ("no", "bf16")),
        Device("xpu", "cpu:gloo,xpu:xccl", "MULTI_XPU", ("no", "fp16", "bf16")),
        Device("mps", "gloo", "NO", ("no", "fp16", "bf16")),
        Device("cpu", "gloo", "MULTI_CPU", ("no", "bf16", "fp16"), forks=True),
    )
}


def best_available() -> Device:
    """Return the best kind of device that torch can use in this process."""
    import torch

    for device in DEVICES.values():
        module = getattr(torch, device.name, None)
        if module is None or device.name == "cpu":
            continue
        is_there = getattr(module, "is_available", None) or module.device_count  # older torch.mps
        if is_there():
            return device
    return DEVICES["cpu"]
