"""What is installed and what the device can do, under the names that Accelerate asks by.

Nothing is imported to find out whether it is there, but for a plugin that a device needs.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.torch_version import TorchVersion

from accelnb.devices import DEVICES, best_available
from accelnb.errors import AccelnbError
from accelnb.options import environment
from accelnb.training.accelerate_names import patch_environment
from accelnb.training.constants import STR_OPERATION_TO_FUNC


def is_package_available(name: str) -> bool:
    """Return whether a package can be imported, now: a notebook may have installed it since.

    A folder of its name without ``__init__.py`` does not count: some trackers write their runs
    into one.

    Examples
    --------
    >>> from accelnb.training.available import is_package_available
    >>> is_package_available("torch"), is_package_available("no_such_package")
    (True, False)
    """
    if name in sys.modules:
        return sys.modules[name] is not None
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def compare_versions(library_or_version: Any, operation: str, requirement_version: str) -> bool:
    """Compare the version of a library with another version.

    Parameters
    ----------
    library_or_version
        The name of an installed library, or a version (of ``packaging``, or of torch).
    operation
        One of ``>``, ``>=``, ``==``, ``!=``, ``<=``, ``<``.

    Raises
    ------
    AccelnbError
        `operation` is something else, or the library is not installed.

    Examples
    --------
    >>> from accelnb.utils import compare_versions
    >>> compare_versions("torch", ">=", "2.0")
    True
    """
    if operation not in STR_OPERATION_TO_FUNC:
        choices = ", ".join(STR_OPERATION_TO_FUNC)
        raise AccelnbError(f"operation={operation}: choose one of {choices}")
    version = library_or_version
    if isinstance(version, str) and not isinstance(version, TorchVersion):
        try:
            version = importlib.metadata.version(version)
        except importlib.metadata.PackageNotFoundError:
            raise AccelnbError(f"{version} is not installed: it has no version") from None
    return STR_OPERATION_TO_FUNC[operation](TorchVersion(str(version)), requirement_version)


def is_torch_version(operation: str, version: str) -> bool:
    """Compare the version of torch with another version.

    Examples
    --------
    >>> from accelnb.utils import is_torch_version
    >>> is_torch_version("<", "2.0")
    False
    """
    return compare_versions("torch", operation, version)


def _package(*names: str, at_least: str | None = None) -> Callable[..., bool]:
    """Make a probe for any of some packages; ``min_version`` of the first may be asked for."""

    def probe(min_version: str | None = at_least) -> bool:
        if not any(map(is_package_available, names)):
            return False
        return min_version is None or compare_versions(names[0], ">=", min_version)

    return probe


def _device(name: str) -> Callable[..., bool]:
    """Make a probe for a kind of device; it imports the plugin that the kind needs."""

    def probe(check_device: bool = False) -> bool:
        return DEVICES[name].is_available()

    return probe


is_4bit_bnb_available = _package("bitsandbytes", at_least="0.39.0")
is_8bit_bnb_available = _package("bitsandbytes", at_least="0.37.2")
is_aim_available = _package("aim")
is_amdsmi_available = _package("amdsmi")
is_bnb_available = _package("bitsandbytes")
is_boto3_available = _package("boto3")
is_clearml_available = _package("clearml")
is_comet_ml_available = _package("comet_ml")
is_datasets_available = _package("datasets")
is_deepspeed_available = _package("deepspeed")
is_dvclive_available = _package("dvclive")
is_import_timer_available = _package("import_timer")
is_lomo_available = _package("lomo_optim")
is_matplotlib_available = _package("matplotlib")
is_megatron_lm_available = _package("megatron")
is_mlflow_available = _package("mlflow")
is_msamp_available = _package("msamp")
is_numpy_available = _package("numpy")
is_pandas_available = _package("pandas")
is_peft_available = _package("peft")
is_pynvml_available = _package("pynvml")
is_pytest_available = _package("pytest")
is_sagemaker_available = _package("sagemaker")
is_schedulefree_available = _package("schedulefree")
is_swanlab_available = _package("swanlab")
is_tensorboard_available = _package("tensorboard", "tensorboardX")
is_timm_available = _package("timm")
is_torchao_available = _package("torchao", at_least="0.6.1")
is_torchdata_available = _package("torchdata")
is_torchdata_stateful_dataloader_available = _package("torchdata", at_least="0.8.0")
is_torchvision_available = _package("torchvision")
is_tqdm_available = _package("tqdm")
is_trackio_available = _package("trackio")
is_transformer_engine_available = _package("transformer_engine")
is_transformers_available = _package("transformers")
is_triton_available = _package("triton")
is_wandb_available = _package("wandb")

is_hpu_available = _device("hpu")
is_mlu_available = _device("mlu")
is_musa_available = _device("musa")
is_neuron_available = _device("neuron")
is_npu_available = _device("npu")
is_sdaa_available = _device("sdaa")
is_xpu_available = _device("xpu")


def is_cuda_available() -> bool:
    """Return whether there is a CUDA device, without initialising it."""
    with patch_environment(PYTORCH_NVML_BASED_CUDA_CHECK="1"):
        return torch.cuda.is_available()


def is_mps_available(min_version: str = "1.12") -> bool:
    """Return whether torch of at least `min_version` can use Apple's GPU."""
    return is_torch_version(">=", min_version) and torch.backends.mps.is_available()


def is_torch_xla_available(check_is_tpu: bool = False, check_is_gpu: bool = False) -> bool:
    """Return whether torch_xla is installed, and on a TPU or GPU if that is asked.

    ``USE_TORCH_XLA=0`` makes it count as missing.
    """
    if not environment.flag("USE_TORCH_XLA", default=True) or not is_package_available("torch_xla"):
        return False
    if not (check_is_tpu or check_is_gpu):
        return True
    import torch_xla.runtime  # pyright: ignore[reportMissingImports]

    kind = torch_xla.runtime.device_type()
    return kind == "TPU" if check_is_tpu else kind in ("GPU", "CUDA")


def is_bf16_available(ignore_tpu: bool = False) -> bool:
    """Return whether this machine's device computes in bf16."""
    device = best_available()
    if device.kind == "XLA":
        return not ignore_tpu
    return device.why_not("bf16") is None


def is_fp16_available() -> bool:
    """Return whether this machine's device trains in fp16, be it slowly."""
    return best_available().why_not("fp16") is None


def is_fp8_available() -> bool:
    """Return whether a package that trains in fp8 is installed: torchao."""
    return is_torchao_available()


def is_transformer_engine_mxfp8_available() -> bool:
    """Return whether Transformer Engine is installed and the GPU computes in blocks of fp8."""
    if not is_transformer_engine_available():
        return False
    from transformer_engine.pytorch.fp8 import (  # pyright: ignore[reportMissingImports]
        check_mxfp8_support,
    )

    return bool(check_mxfp8_support()[0])


def is_bitsandbytes_multi_backend_available() -> bool:
    """Return whether bitsandbytes is installed, and for more than CUDA."""
    if not is_bnb_available():
        return False
    import bitsandbytes  # pyright: ignore[reportMissingImports]

    return "multi_backend" in getattr(bitsandbytes, "features", ())


def is_habana_gaudi1() -> bool:
    """Return whether the HPU of this machine is of the first generation."""
    if not is_hpu_available():
        return False
    from habana_frameworks.torch.utils.experimental import (  # pyright: ignore[reportMissingImports]
        _get_device_type,
        synDeviceType,
    )

    return _get_device_type() == synDeviceType.synDeviceGaudi


def is_rich_available() -> bool:
    """Return whether rich is installed and ``ACCELERATE_ENABLE_RICH`` asks for it."""
    return is_package_available("rich") and environment.flag("ACCELERATE_ENABLE_RICH")


def is_rocm_available() -> bool:
    """Return whether there is a GPU by ROCm."""
    return torch.version.hip is not None and torch.cuda.is_available()


def is_torch_distributed_available() -> bool:
    """Return whether torch was built with ``torch.distributed``."""
    return torch.distributed.is_available()


def is_xccl_available() -> bool:
    """Return whether torch was built with the backend of XPUs."""
    probe = getattr(torch.distributed, "is_xccl_available", None)
    return probe is not None and probe()


def is_pippy_available() -> bool:
    """Return True: ``torch.distributed.pipelining`` is part of the torch that accelnb needs."""
    return True


def is_weights_only_available() -> bool:
    """Return True: ``torch.load(weights_only=True)`` takes safe globals since torch 2.4."""
    return True
