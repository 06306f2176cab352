"""`FullyShardedDataParallelPlugin`: how FSDP2 divides a model."""

from __future__ import annotations

from dataclasses import dataclass

from accelnb.training.configuration import KwargsHandler


@dataclass
class FullyShardedDataParallelPlugin(KwargsHandler):
    """Of torch's ``fully_shard``."""

    reshard_after_forward: bool = True
