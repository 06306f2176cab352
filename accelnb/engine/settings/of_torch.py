"""Settings of torch."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelnb.devices.hardware.usable_resources import allowed_cpus, physical_cores
from accelnb.engine.serialization.torch_objects import own_device
from accelnb.engine.settings.setting import Setting

# Each library's own precision of fp32 products, outermost first: a setting of an outer one is
# taken over by those inside it.
_FP32 = tuple(
    (library, operation)
    for library, operations in {
        "generic": ("all",),
        "cuda": ("all", "matmul", "conv", "rnn"),
        "mkldnn": ("all", "matmul", "conv", "rnn"),
    }.items()
    for operation in operations
)
_TF32 = (("cuda", "conv"), ("cuda", "rnn"))  # torch's own choice
_FP32_DEFAULT = ("highest", True, tuple("tf32" if part in _TF32 else "none" for part in _FP32))


def _or_none(read: Callable[[], Any]) -> Any:
    """Return what `read` does, or None where torch refuses: old and new ways were mixed."""
    try:
        return read()
    except RuntimeError:
        return None


def _read_fp32(torch: Any) -> Any:
    of_each = getattr(torch._C, "_get_fp32_precision_getter", None)  # since torch 2.9
    return (
        _or_none(torch.get_float32_matmul_precision),
        _or_none(torch._C._get_cudnn_allow_tf32),
        tuple(of_each(*part) for part in _FP32) if of_each else _FP32_DEFAULT[2],
    )


def _hold_fp32(torch: Any, value: Any) -> None:
    matmul, cudnn, parts = value
    if matmul is not None:
        torch.set_float32_matmul_precision(matmul)
    if cudnn is not None:
        torch._C._set_cudnn_allow_tf32(cudnn)
    if (of_each := getattr(torch._C, "_get_fp32_precision_getter", None)) is None:
        return
    for part, precision in zip(_FP32, parts, strict=True):
        if of_each(*part) != precision:
            torch._C._set_fp32_precision_setter(*part, precision)


def _read_default_device(torch: Any) -> str | None:
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else str(context.device)


def _hold_default_device(torch: Any, name: str | None) -> None:
    """Set it: of an accelerator's, the rank's own of that type, and none if it has none."""
    if name is None or torch.device(name).type in ("cpu", "meta"):
        torch.set_default_device(name)
        return
    own = own_device()
    has_one = own is not None and own.type == torch.device(name).type
    torch.set_default_device(own if has_one else None)


def _read_determinism(torch: Any) -> Any:
    return (
        torch._C._get_deterministic_algorithms(),
        torch._C._get_deterministic_algorithms_warn_only(),
        torch._C._get_deterministic_fill_uninitialized_memory(),
    )


def _hold_determinism(torch: Any, value: Any) -> None:
    enabled, warn_only, fills = value
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
    torch.utils.deterministic.fill_uninitialized_memory = fills


def _read_cudnn(torch: Any) -> Any:
    return (
        torch._C._get_cudnn_enabled(),
        torch._C._get_cudnn_benchmark(),
        torch._C._get_cudnn_deterministic(),
    )


def _hold_cudnn(torch: Any, value: Any) -> None:
    cudnn = torch.backends.cudnn
    cudnn.enabled, cudnn.benchmark, cudnn.deterministic = value


_ATTENTION = ("flash", "mem_efficient", "math", "cudnn")


def _read_attention(torch: Any) -> Any:
    return tuple(getattr(torch._C, f"_get_{kind}_sdp_enabled")() for kind in _ATTENTION)


def _hold_attention(torch: Any, value: Any) -> None:
    for kind, enabled in zip(_ATTENTION, value, strict=True):
        getattr(torch.backends.cuda, f"enable_{kind}_sdp")(enabled)


class _Threads:
    """Tells the number of threads that the notebook set from torch's own.

    Torch does not say which it is. Its own follows from the environment and the cores; and what
    it has when it is first read is not the user's if it changes later.
    """

    def __init__(self) -> None:
        self._count: int | None = None
        self._changed = False
        self._of_user: int | None = None

    def read(self, torch: Any) -> int | None:
        count = torch.get_num_threads()
        if count != self._count:
            self._changed |= self._count is not None
            self._count = count
            self._of_user = count if self._changed or count not in _usual_counts() else None
        return self._of_user


@functools.cache
def _counts_of_cores() -> frozenset[int]:
    """Return how many threads torch takes by itself: as many as cores, or processors."""
    processors = allowed_cpus(Path("/"))
    return frozenset({processors, physical_cores(Path("/")), os.cpu_count() or 1})


def _usual_counts() -> frozenset[int]:
    asked = {os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return _counts_of_cores() | {int(count) for count in asked if count.isdecimal()}


SETTINGS = (
    Setting(
        "torch's default dtype", "torch",
        lambda torch: str(torch.get_default_dtype()).removeprefix("torch."),
        lambda torch, name: torch.set_default_dtype(getattr(torch, name)), "float32",
    ),
    Setting("torch's default device", "torch", _read_default_device, _hold_default_device, None),
    Setting("the precision of fp32 products", "torch", _read_fp32, _hold_fp32, _FP32_DEFAULT),
    Setting(
        "torch's deterministic algorithms", "torch", _read_determinism, _hold_determinism,
        (False, False, True),
    ),
    Setting("torch.backends.cudnn", "torch", _read_cudnn, _hold_cudnn, (True, False, False)),
    Setting("torch's attention kernels", "torch", _read_attention, _hold_attention, (True,) * 4),
    Setting(
        "torch's print options", "torch._tensor_str",
        lambda tensor_str: dict(vars(tensor_str.PRINT_OPTS)),
        lambda tensor_str, value: vars(tensor_str.PRINT_OPTS).update(value),
        {"precision": 4, "threshold": 1000, "edgeitems": 3, "linewidth": 80, "sci_mode": None},
    ),
    Setting(
        "torch's grad mode", "torch", lambda torch: torch.is_grad_enabled(),
        lambda torch, enabled: torch.set_grad_enabled(enabled), True,
    ),
    Setting(
        "torch's anomaly detection", "torch",
        lambda torch: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda torch, value: torch.autograd.set_detect_anomaly(*value), (False, True),
    ),
    Setting(
        "torch's number of threads", "torch", _Threads().read,
        lambda torch, count: torch.set_num_threads(count or int(os.environ["OMP_NUM_THREADS"])),
        None,
    ),
    Setting(
        "torch's sharing strategy", "torch.multiprocessing",
        lambda multiprocessing: multiprocessing.get_sharing_strategy(),
        lambda multiprocessing, name: multiprocessing.set_sharing_strategy(name),
        "file_descriptor",
    ),
)  # fmt: skip
