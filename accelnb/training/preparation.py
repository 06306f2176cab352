"""What `prepare` makes of models, optimizers, loaders and schedulers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from accelnb.errors import AccelnbError
from accelnb.training.arrangement import parallelism_on
from accelnb.training.data.prepare import skip_first_batches
from accelnb.training.enums import DistributedType
from accelnb.training.optimizer import AcceleratedOptimizer
from accelnb.training.parallel.adopt import adopted, strategy_of
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.parallelize import strategy_for
from accelnb.training.parallel.placement import lies_on_several_devices
from accelnb.training.parallel.strategy import Strategy
from accelnb.training.parallel.unwrapping import extract_model_from_parallel
from accelnb.training.parallelism_config import ParallelismConfig
from accelnb.training.prepared import Preparation
from accelnb.training.scaler import Scaler
from accelnb.training.scheduler import AcceleratedScheduler
from accelnb.training.state import AcceleratorState

# The state of an optimizer goes to where the model's parameters are; a scheduler follows its
# prepared optimizer.
_IN_ORDER = (
    (nn.Module, DataLoader),
    (torch.optim.Optimizer,),
    (LRScheduler, AcceleratedScheduler),
)


class PreparationMethods:
    """The part of `Accelerator` that fits a loop's objects to the launch."""

    device_placement: bool
    rng_types: list[str]
    scaler: Scaler | None
    scheduler_steps_per_update: int | None
    step_scheduler_with_optimizer: bool
    strategy: Strategy
    parallelism_config: ParallelismConfig | None
    state: AcceleratorState
    distributed_type: DistributedType
    mesh: Mesh
    _preparation: Preparation

    def prepare(self, *args: Any, device_placement: Sequence[bool | None] | None = None) -> Any:
        """Make models, optimizers, loaders and schedulers fit for this launch.

        Parameters
        ----------
        *args
            Any number of ``nn.Module``, ``Optimizer``, ``DataLoader`` and ``LRScheduler``, in any
            order. Other objects are returned as they are, and so are prepared ones.
        device_placement
            For each object, whether it is moved to the device.

        Returns
        -------
        prepared
            The objects in the same order, in a tuple if there are several.

        Raises
        ------
        AccelnbError
            An object was prepared before under another name.
        """
        placements = device_placement or [None] * len(args)
        if len(placements) != len(args):
            raise AccelnbError(
                f"device_placement has {len(placements)} entries for {len(args)} objects"
            )
        for thing in args:  # first, for loaders divide data as it is divided for the models
            if isinstance(thing, nn.Module):
                self._follow(thing)
        self._preparation.check_optimizers(
            it for it in args if isinstance(it, torch.optim.Optimizer)
        )
        result = list(args)
        for kinds in _IN_ORDER:
            for i, placement in enumerate(placements):
                if isinstance(args[i], kinds):
                    result[i] = self._prepare_one(args[i], placement)
        return tuple(result) if len(result) != 1 else result[0]

    def _prepare_one(self, thing: Any, placement: bool | None) -> Any:
        if isinstance(thing, DataLoader):
            return self.prepare_data_loader(thing, placement)
        if isinstance(thing, nn.Module):
            return self.prepare_model(thing, placement)
        if isinstance(thing, torch.optim.Optimizer):
            return self.prepare_optimizer(thing, placement)
        return self.prepare_scheduler(thing)

    def prepare_model(
        self,
        model: nn.Module,
        device_placement: bool | None = None,
        evaluation_mode: bool = False,
    ) -> nn.Module:
        """Prepare a model; with `evaluation_mode` for inference only, without DDP."""
        self._follow(model)
        places = self._places(device_placement)
        return self._preparation.model(
            model, places, self.verify_device_map(model), evaluation_mode
        )

    def _follow(self, model: nn.Module) -> None:
        """Arrange the processes as a model that comes divided is, if no mesh was asked for."""
        if getattr(model, "_is_accelerate_prepared", False):
            return
        preparation, before = self._preparation, self.mesh
        mesh = adopted(model, before, asked=self.parallelism_config is not None)
        if mesh is before:
            return
        if preparation.prepared.loaders and mesh.data_shares != before.data_shares:
            raise AccelnbError(
                f"the model came divided so that data is in {mesh.data_shares} parts, and loaders "
                f"were prepared for {before.data_shares}: prepare it before them"
            )
        plan = replace(preparation.plan, strategy=strategy_of(model, mesh, preparation.plan))
        strategy = strategy_for(mesh, plan).on(mesh, plan)
        self.mesh = preparation.mesh = mesh
        self.strategy = preparation.strategy = strategy
        preparation.plan = plan
        self.parallelism_config = parallelism_on(mesh, None)
        if strategy.shards:
            self.distributed_type = self.state.distributed_type = DistributedType.FSDP

    def prepare_optimizer(
        self, optimizer: torch.optim.Optimizer, device_placement: bool | None = None
    ) -> AcceleratedOptimizer:
        """Prepare an optimizer."""
        return self._preparation.optimizer(optimizer, self._places(device_placement), self.scaler)

    def prepare_scheduler(self, scheduler: LRScheduler | AcceleratedScheduler) -> Any:
        """Prepare a scheduler; its optimizer comes first."""
        return self._preparation.scheduler(
            scheduler, self.step_scheduler_with_optimizer, self.scheduler_steps_per_update
        )

    def prepare_data_loader(
        self,
        data_loader: DataLoader[Any],
        device_placement: bool | None = None,
        slice_fn_for_dispatch: Any = None,
    ) -> Any:
        """Prepare a loader: each rank gets its part of the data, on its device."""
        return self._preparation.loader(
            data_loader, self._places(device_placement), self.rng_types, slice_fn_for_dispatch
        )

    def _places(self, device_placement: bool | None) -> bool:
        return self.device_placement if device_placement is None else device_placement

    def skip_first_batches(self, dataloader: Any, num_batches: int = 0) -> Any:
        """Return a loader that leaves out the first batches of one epoch, as to resume in it."""
        return skip_first_batches(dataloader, num_batches)

    def unwrap_model(
        self, model: Any, keep_fp32_wrapper: bool = True, keep_torch_compile: bool = True
    ) -> Any:
        """Return the model inside a prepared one; see `extract_model_from_parallel`."""
        return extract_model_from_parallel(model, keep_fp32_wrapper, keep_torch_compile)

    def verify_device_map(self, model: nn.Module) -> bool:
        """Return whether a model lies on several devices (``hf_device_map``)."""
        return lies_on_several_devices(model)
