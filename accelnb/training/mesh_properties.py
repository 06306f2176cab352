"""`MeshProperties`: what the Accelerator says of the places of processes, by Accelerate's names."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.strategy import Strategy
from accelnb.training.parallel.tensor_parallel.loss import loss_parallel
from accelnb.training.parallelism_config import ParallelismConfig


class MeshProperties:
    """The part of `Accelerator` that says where a process is along each dimension.

    Along a dimension that there is not, every process has place 0.

    Attributes
    ----------
    mesh : Mesh
        The processes in a grid.
    parallelism_config : ParallelismConfig or None
        The sizes of the mesh; None where every process has the whole model and data of its own.
    """

    mesh: Mesh
    parallelism_config: ParallelismConfig | None
    strategy: Strategy

    @property
    def torch_device_mesh(self) -> Any:
        """The ``DeviceMesh`` of all processes, None without `parallelism_config`."""
        return None if self.parallelism_config is None else self.mesh.torch_mesh

    @property
    def is_fsdp2(self) -> bool:
        """Whether models are divided by torch's ``fully_shard``."""
        return self.strategy.shards

    @property
    def is_composable_parallelism_enabled(self) -> bool:
        return self.is_fsdp2

    @property
    def _parts(self) -> tuple[int, int]:
        """Into how many parts `split_between_processes` splits, and which is this process's."""
        return self.mesh.data_shares, self.mesh.data_share

    @property
    def data_parallel_rank(self) -> int:
        """Which copy of the model this process has a part of."""
        return self.mesh.place_along("dp_replicate")

    @property
    def data_parallel_shard_rank(self) -> int:
        """Which part of the divided weights this process has."""
        return self.mesh.place_along("dp_shard")

    @property
    def tensor_parallel_rank(self) -> int:
        return self.mesh.place_along("tp")

    @property
    def context_parallel_rank(self) -> int:
        return self.mesh.place_along("cp", "sp")

    @property
    def pipeline_parallel_rank(self) -> int:
        return self.mesh.place_along("pp")

    @property
    def should_save_model(self) -> bool:
        """Whether this process has to take part in saving the model."""
        return self.is_fsdp2 or self.mesh.rank == 0

    def loss_parallel(self) -> AbstractContextManager[None]:
        """Return a context for a loss of logits that are divided over tensor-parallel ranks.

        They are so by ``TorchTensorParallelConfig(loss_parallel=True)``; else the context does
        nothing. Forward passes and `backward` are in it without being told.

        Examples
        --------
        >>> import torch
        >>> from accelnb import Accelerator
        >>> accelerator = Accelerator()
        >>> logits, targets = torch.zeros(2, 3), torch.tensor([0, 2])
        >>> with accelerator.loss_parallel():
        ...     loss = torch.nn.functional.cross_entropy(logits, targets)
        >>> accelerator.backward(loss.requires_grad_())
        """
        config = self.parallelism_config and self.parallelism_config.tp_handler
        return loss_parallel() if config and config.loss_parallel else nullcontext()
