"""What each kind of device is: the one table that the probe, the ranks and training read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

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
    launches : bool
        Whether accelnb can start ranks on it.
    """

    name: str
    backend: str
    kind: str
    precisions: tuple[str, ...]
    forks: bool = False
    launches: bool = True

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
        Device("tpu", "xla", "XLA", ("no", "bf16"), launches=False),
        Device("xpu", "cpu:gloo,xpu:xccl", "MULTI_XPU", ("no", "fp16", "bf16")),
        Device("mps", "gloo", "NO", ("no", "fp16", "bf16")),
        Device("cpu", "gloo", "MULTI_CPU", ("no", "bf16", "fp16"), forks=True),
    )
}


class Ability(NamedTuple):
    """How well a single card computes in a precision.

    Attributes
    ----------
    level : str
        ``fast``, ``slow`` (it works, but gains no speed) or ``no``.
    why : str
        Of what is not fast.
    """

    level: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.level} ({self.why})" if self.why else self.level


_FAST = Ability("fast")
_NO = Ability("no")


def abilities(
    kind: str, version: tuple[int, int] | None = None, features: Collection[str] = ()
) -> dict[str, Ability]:
    """Return what a single card of `kind` can do in each precision.

    Parameters
    ----------
    kind
        A name of `DEVICES`, or ``rocm`` for an AMD GPU.
    version
        Compute capability of an NVIDIA GPU, None if it is not known.
    features
        Of a processor: its flags. Of an AMD GPU: its architecture.

    Examples
    --------
    >>> from accelnb.devices import abilities
    >>> str(abilities("cuda", version=(7, 5))["bf16"])
    'slow (emulated; from compute capability 8.0 on it is fast)'
    >>> str(abilities("cuda", version=(9, 0))["fp8"])
    'fast'
    """
    if kind == "cuda":
        return _of_cuda(version or (8, 0))
    if kind == "rocm":
        has_fp8 = any(name.startswith(("gfx94", "gfx95", "gfx12")) for name in features)
        has_bf16 = any(
            name.startswith(("gfx908", "gfx90a", "gfx94", "gfx95", "gfx11", "gfx12"))
            for name in features
        )
        bf16 = _FAST if has_bf16 else Ability("slow", "this GPU has no units for it")
        return {"fp16": _FAST, "bf16": bf16, "fp8": _FAST if has_fp8 else _NO}
    if kind == "tpu":
        return {"fp16": Ability("no", "TPUs compute in bf16"), "bf16": _FAST, "fp8": _NO}
    if kind == "cpu":
        return {
            "fp16": _of_cpu(features, "amx_fp16", "avx512_fp16"),
            "bf16": _of_cpu(features, "amx_bf16", "avx512_bf16", "bf16"),
            "fp8": _NO,
        }
    return {"fp16": _FAST, "bf16": _FAST, "fp8": _NO}


def _of_cuda(version: tuple[int, int]) -> dict[str, Ability]:
    fp16 = _FAST if version >= (7, 0) else Ability("slow", "no tensor cores before 7.0")
    bf16 = Ability("slow", "emulated; from compute capability 8.0 on it is fast")
    fp8 = Ability("no", "needs compute capability 8.9")
    return {
        "fp16": fp16,
        "bf16": _FAST if version >= (8, 0) else bf16,
        "fp8": _FAST if version >= (8, 9) else fp8,
    }


def _of_cpu(features: Collection[str], *units: str) -> Ability:
    if any(unit in features for unit in units):
        return _FAST
    return Ability("slow", "it works, but the processor has no units for it")


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
