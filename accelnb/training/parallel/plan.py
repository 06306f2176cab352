"""What is asked of `parallelize`: how a model shall train on the processes of a mesh."""

from __future__ import annotations

from dataclasses import dataclass, field

from accelnb.training.configuration import DistributedDataParallelKwargs, TorchDynamoPlugin
from accelnb.training.fsdp_plugin import FullyShardedDataParallelPlugin
from accelnb.training.parallelism_config import (
    DeepSpeedSequenceParallelConfig,
    TorchContextParallelConfig,
    TorchTensorParallelConfig,
)
from accelnb.training.precision import Precision


@dataclass(frozen=True)
class Plan:
    """How models shall train.

    Attributes
    ----------
    strategy : str
        How several processes train one model: a name of `parallelize.STRATEGIES`.
    precision : Precision
        What models compute in, and what becomes of their outputs.
    ddp : DistributedDataParallelKwargs
        Of ``DistributedDataParallel``.
    fsdp : FullyShardedDataParallelPlugin, optional
        Of ``fully_shard``.
    tensor : TorchTensorParallelConfig
        Of tensor parallelism, where the mesh has `tp`.
    context : TorchContextParallelConfig
        Of attention, where the mesh has `cp`.
    sequence : DeepSpeedSequenceParallelConfig
        Of attention, where the mesh has `sp`.
    compilation : TorchDynamoPlugin
        Of ``torch.compile``.
    activation_checkpointing : bool
        Compute the activations of repeated blocks again in the backward pass.
    device_placement : bool
        Move models to the device.
    evaluation_mode : bool
        For inference only: the processes do not train it.
    """

    strategy: str
    precision: Precision
    ddp: DistributedDataParallelKwargs = field(default_factory=DistributedDataParallelKwargs)
    fsdp: FullyShardedDataParallelPlugin | None = None
    tensor: TorchTensorParallelConfig = field(default_factory=TorchTensorParallelConfig)
    context: TorchContextParallelConfig = field(default_factory=TorchContextParallelConfig)
    sequence: DeepSpeedSequenceParallelConfig = field(
        default_factory=DeepSpeedSequenceParallelConfig
    )
    compilation: TorchDynamoPlugin = field(default_factory=TorchDynamoPlugin)
    activation_checkpointing: bool = False
    device_placement: bool = True
    evaluation_mode: bool = False
