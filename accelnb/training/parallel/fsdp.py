"""FSDP2: weights, gradients and optimizer states divided over processes, by ``fully_shard``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from accelnb.training.parallel.blocks import repeated_blocks
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.plan import Plan
from accelnb.training.parallel.strategy import Strategy


def apply_fsdp(model: nn.Module, mesh: Mesh, plan: Plan) -> nn.Module:
    """Divide a model over `mesh.fsdp_mesh`."""
    from torch.distributed.fsdp import fully_shard

    for block in repeated_blocks(model):
        fully_shard(block, mesh=mesh.fsdp_mesh)
    fully_shard(model, mesh=mesh.fsdp_mesh)
    return model


class Sharded(Strategy):
    """Models are divided over the processes, each of which has all of a unit only while it runs."""

    averages = True
    shards = True
    apply = staticmethod(apply_fsdp)

    @contextmanager
    def no_sync(self, model: nn.Module) -> Iterator[None]:
        model.set_requires_gradient_sync(False)  # pyright: ignore[reportCallIssue]
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)  # pyright: ignore[reportCallIssue]
