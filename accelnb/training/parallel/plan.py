"""What is asked of `parallelize`: how a model shall train on the processes of a mesh."""

from __future__ import annotations

from dataclasses import dataclass, field

from accelnb.training.configuration import DistributedDataParallelKwargs, TorchDynamoPlugin
from accelnb.training.fsdp_plugin import FullyShardedDataParallelPlugin
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
    compilation: TorchDynamoPlugin = field(default_factory=TorchDynamoPlugin)
    fsdp: FullyShardedDataParallelPlugin | None = None
    activation_checkpointing: bool = False
    device_placement: bool = True
    evaluation_mode: bool = False
