"""Settings of torch: read in the notebook, held on a rank."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelnb.devices.hardware.limits import allowed_cpus, physical_cores
from accelnb.engine.serialization.torch_objects import own_device

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
FP32_DEFAULT = ("highest", True, tuple("tf32" if part in _TF32 else "none" for part in _FP32))


def read_dtype(torch: Any) -> str:
    return str(torch.get_default_dtype()).removeprefix("torch.")


def hold_dtype(name: str) -> None:
    import torch

    torch.set_default_dtype(getattr(torch, name))


def read_grad_mode(torch: Any) -> bool:
    return torch.is_grad_enabled()


def hold_grad_mode(enabled: bool) -> None:
    import torch

    torch.set_grad_enabled(enabled)


def _or_none(read: Callable[[], Any]) -> Any:
    """Return what `read` does, or None where torch refuses: old and new ways were mixed."""
    try:
        return read()
    except RuntimeError:
        return None


def read_fp32(torch: Any) -> Any:
    of_each = getattr(torch._C, "_get_fp32_precision_getter", None)  # since torch 2.9
    return (
        _or_none(torch.get_float32_matmul_precision),
        _or_none(torch._C._get_cudnn_allow_tf32),
        tuple(of_each(*part) for part in _FP32) if of_each else FP32_DEFAULT[2],
    )


def hold_fp32(value: Any) -> None:
    import torch

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


def read_default_device(torch: Any) -> str | None:
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else str(context.device)


def hold_default_device(name: str | None) -> None:
    """Set it: of an accelerator's, the rank's own of that type, and none if it has none."""
    import torch

    if name is None or torch.device(name).type in ("cpu", "meta"):
        torch.set_default_device(name)
        return
    own = own_device()
    has_one = own is not None and own.type == torch.device(name).type
    torch.set_default_device(own if has_one else None)


def read_determinism(torch: Any) -> Any:
    return (
        torch._C._get_deterministic_algorithms(),
        torch._C._get_deterministic_algorithms_warn_only(),
        torch._C._get_deterministic_fill_uninitialized_memory(),
    )


def hold_determinism(value: Any) -> None:
    import torch
    from torch.utils import deterministic

    enabled, warn_only, fills = value
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
    deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]


def read_cudnn(torch: Any) -> Any:
    return (
        torch._C._get_cudnn_enabled(),
        torch._C._get_cudnn_benchmark(),
        torch._C._get_cudnn_deterministic(),
    )


def hold_cudnn(value: Any) -> None:
    from torch.backends import cudnn

    cudnn.enabled, cudnn.benchmark, cudnn.deterministic = value


_ATTENTION = ("flash", "mem_efficient", "math", "cudnn")


def read_attention(torch: Any) -> Any:
    return (
        torch._C._get_flash_sdp_enabled(),
        torch._C._get_mem_efficient_sdp_enabled(),
        torch._C._get_math_sdp_enabled(),
        torch._C._get_cudnn_sdp_enabled(),
    )


def hold_attention(value: Any) -> None:
    from torch.backends import cuda

    for kind, enabled in zip(_ATTENTION, value, strict=True):
        getattr(cuda, f"enable_{kind}_sdp")(enabled)


PRINT_OPTIONS = {
    "precision": 4, "threshold": 1000, "edgeitems": 3, "linewidth": 80, "sci_mode": None,
}  # fmt: skip


def read_print_options(tensor_str: Any) -> dict[str, Any]:
    return dict(vars(tensor_str.PRINT_OPTS))


def hold_print_options(value: dict[str, Any]) -> None:
    from torch import _tensor_str

    for name, option in value.items():
        setattr(_tensor_str.PRINT_OPTS, name, option)


def read_anomaly_detection(torch: Any) -> Any:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def hold_anomaly_detection(value: Any) -> None:
    import torch

    torch.autograd.set_detect_anomaly(*value)


class Threads:
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


def hold_threads(count: int | None) -> None:
    import torch

    torch.set_num_threads(count or int(os.environ["OMP_NUM_THREADS"]))


def read_sharing_strategy(multiprocessing: Any) -> str:
    return multiprocessing.get_sharing_strategy()


def hold_sharing_strategy(strategy: str) -> None:
    from torch import multiprocessing

    multiprocessing.set_sharing_strategy(strategy)
