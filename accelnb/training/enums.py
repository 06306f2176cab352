"""The names that the training API gives to kinds of things, as Accelerate spells them."""

from __future__ import annotations

import enum
from typing import Any

from accelnb.errors import AccelnbError


class _Kind(enum.StrEnum):
    """A name that compares and prints as its text."""

    @classmethod
    def list(cls) -> list[str]:
        return [member.value for member in cls]

    @classmethod
    def _missing_(cls, value: object) -> Any:
        raise AccelnbError(f"{cls.__name__}: {value!r} is none of {', '.join(cls)}")


class DistributedType(_Kind):
    """How the processes of a training work together.

    Examples
    --------
    >>> from accelnb import DistributedType, PartialState
    >>> PartialState().distributed_type == DistributedType.NO
    True
    """

    NO = "NO"
    MULTI_CPU = "MULTI_CPU"
    MULTI_GPU = "MULTI_GPU"
    MULTI_XPU = "MULTI_XPU"
    MULTI_NPU = "MULTI_NPU"
    MULTI_HPU = "MULTI_HPU"
    MULTI_MLU = "MULTI_MLU"
    MULTI_MUSA = "MULTI_MUSA"
    MULTI_SDAA = "MULTI_SDAA"
    MULTI_NEURON = "MULTI_NEURON"
    XLA = "XLA"
    FSDP = "FSDP"
    DEEPSPEED = "DEEPSPEED"
    MEGATRON_LM = "MEGATRON_LM"


class PrecisionType(_Kind):
    """Mixed precision."""

    NO = "no"
    FP8 = "fp8"
    FP16 = "fp16"
    BF16 = "bf16"


class LoggerType(_Kind):
    """The experiment trackers that `log_with` knows; ``all`` stands for those installed."""

    ALL = "all"
    NOTEBOOK = "notebook"
    AIM = "aim"
    CLEARML = "clearml"
    COMETML = "comet_ml"
    DVCLIVE = "dvclive"
    MLFLOW = "mlflow"
    SWANLAB = "swanlab"
    TENSORBOARD = "tensorboard"
    TRACKIO = "trackio"
    WANDB = "wandb"


class RNGType(_Kind):
    """The random number generators that can be made equal on all ranks."""

    TORCH = "torch"
    CUDA = "cuda"
    XLA = "xla"
    XPU = "xpu"
    NPU = "npu"
    HPU = "hpu"
    MLU = "mlu"
    MUSA = "musa"
    SDAA = "sdaa"
    NEURON = "neuron"
    GENERATOR = "generator"


class DDPCommunicationHookType(_Kind):
    """How DDP compresses gradients on their way.

    Examples
    --------
    >>> from accelnb import DDPCommunicationHookType
    >>> DDPCommunicationHookType("power_sgd").name
    'POWER_SGD'
    """

    NO = "no"
    FP16 = "fp16"
    BF16 = "bf16"
    POWER_SGD = "power_sgd"
    BATCHED_POWER_SGD = "batched_power_sgd"


class DynamoBackend(_Kind):
    """Backends of torch.compile (``torch.compiler.list_backends()``); ``NO`` compiles nothing."""

    NO = "NO"
    EAGER = "EAGER"
    AOT_EAGER = "AOT_EAGER"
    INDUCTOR = "INDUCTOR"
    CUDAGRAPHS = "CUDAGRAPHS"
    ONNXRT = "ONNXRT"
    OPENXLA = "OPENXLA"
    TENSORRT = "TENSORRT"
    TVM = "TVM"

    @classmethod
    def _missing_(cls, value: object) -> Any:
        return cls.__members__.get(str(value).upper()) or super()._missing_(value)


class ComputeEnvironment(_Kind):
    """Where a configuration file of Accelerate is for."""

    LOCAL_MACHINE = "LOCAL_MACHINE"
    AMAZON_SAGEMAKER = "AMAZON_SAGEMAKER"


class SageMakerDistributedType(_Kind):
    """How a configuration file of Accelerate distributes on SageMaker."""

    NO = "NO"
    DATA_PARALLEL = "DATA_PARALLEL"
    MODEL_PARALLEL = "MODEL_PARALLEL"
