"""What `prepare` makes of models, optimizers, loaders and schedulers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from accelnb.errors import AccelnbError
from accelnb.training import compilation
from accelnb.training.data.prepare import prepare_data_loader, skip_first_batches
from accelnb.training.kinds import DynamoBackend
from accelnb.training.optimizer import AcceleratedOptimizer
from accelnb.training.parallel.strategy import SingleProcess
from accelnb.training.precision import Precision
from accelnb.training.scheduler import AcceleratedScheduler
from accelnb.training.settings import DataLoaderConfiguration
from accelnb.training.state import AcceleratorState
from accelnb.training.wrapping import extract_model_from_parallel


class PreparationMethods:
    """The part of `Accelerator` that fits a loop's objects to the launch."""

    activation_checkpointing: bool
    dataloader_config: DataLoaderConfiguration
    device: torch.device
    device_placement: bool
    num_processes: int
    precision: Precision
    process_index: int
    rng_types: list[str]
    scaler: torch.amp.GradScaler | None
    scheduler_steps_per_update: int | None
    state: AcceleratorState
    step_scheduler_with_optimizer: bool
    strategy: SingleProcess
    use_distributed: bool
    _dataloaders: list[Any]
    _models: list[nn.Module]
    _optimizers: list[AcceleratedOptimizer]
    _schedulers: list[AcceleratedScheduler]

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
        # Schedulers last: they follow the prepared optimizers.
        first = [self._prepare_one(o, p) for o, p in zip(args, placements, strict=True)]
        result = tuple(
            self.prepare_scheduler(o) if isinstance(o, LRScheduler | AcceleratedScheduler) else o
            for o in first
        )
        return result if len(result) != 1 else result[0]

    def _prepare_one(self, thing: Any, placement: bool | None) -> Any:
        if isinstance(thing, DataLoader):
            return self.prepare_data_loader(thing, placement)
        if isinstance(thing, nn.Module):
            return self.prepare_model(thing, placement)
        if isinstance(thing, torch.optim.Optimizer):
            return self.prepare_optimizer(thing, placement)
        return thing

    def prepare_model(
        self,
        model: nn.Module,
        device_placement: bool | None = None,
        evaluation_mode: bool = False,
    ) -> nn.Module:
        """Prepare a model; with `evaluation_mode` for inference only, without DDP."""
        if getattr(model, "_is_accelerate_prepared", False):
            self.precision.apply_to(self.unwrap_model(model))  # another Accelerator's before
            return _noted(model, self._models)
        for known in self._models:
            if self.unwrap_model(known) is model:
                raise _prepared_twice("model")
        if self.use_distributed and self.verify_device_map(model):
            raise AccelnbError(
                "a model that was loaded over several devices (device_map='auto') cannot train on "
                "several ranks: load it onto one device, or use one rank"
            )
        if self.activation_checkpointing and not evaluation_mode:
            compilation.checkpoint_activations(model)
        self.precision.apply_to(model)
        if self._places(device_placement) and not self.verify_device_map(model):
            model = model.to(self.device)
        if not evaluation_mode:
            model = self.strategy.wrap(model)
        if self.state.dynamo_plugin.backend != DynamoBackend.NO:
            model = compilation.compile_model(model, self.state.dynamo_plugin)
        model._is_accelerate_prepared = True  # pyright: ignore[reportArgumentType]
        self._models.append(model)
        return model

    def prepare_optimizer(
        self, optimizer: torch.optim.Optimizer, device_placement: bool | None = None
    ) -> AcceleratedOptimizer:
        """Prepare an optimizer."""
        if isinstance(optimizer, AcceleratedOptimizer):
            optimizer.scaler = self.scaler
            return _noted(optimizer, self._optimizers)
        if any(known.optimizer is optimizer for known in self._optimizers):
            raise _prepared_twice("optimizer")
        device = self.device if self._places(device_placement) else None
        prepared = AcceleratedOptimizer(optimizer, device, self.scaler)
        self._optimizers.append(prepared)
        return prepared

    def prepare_scheduler(self, scheduler: LRScheduler | AcceleratedScheduler) -> Any:
        """Prepare a scheduler; its optimizer comes first."""
        if isinstance(scheduler, AcceleratedScheduler):
            return _noted(scheduler, self._schedulers)
        if any(known.scheduler is scheduler for known in self._schedulers):
            raise _prepared_twice("scheduler")
        its_own = getattr(scheduler, "optimizer", None)
        followed = [o for o in self._optimizers if its_own in (o, o.optimizer)]
        steps = self.scheduler_steps_per_update
        if steps is None:
            steps = 1 if self.dataloader_config.split_batches else self.num_processes
        prepared = AcceleratedScheduler(
            scheduler, followed or self._optimizers, self.step_scheduler_with_optimizer, steps
        )
        self._schedulers.append(prepared)
        return prepared

    def prepare_data_loader(
        self,
        data_loader: DataLoader[Any],
        device_placement: bool | None = None,
        slice_fn_for_dispatch: Any = None,
    ) -> Any:
        """Prepare a loader: each rank gets its part of the data, on its device."""
        if getattr(data_loader, "_is_accelerate_prepared", False):
            return _noted(data_loader, self._dataloaders)
        config = self.dataloader_config
        prepared: Any = prepare_data_loader(
            data_loader,
            self.device,
            num_processes=self.num_processes,
            process_index=self.process_index,
            split_batches=config.split_batches,
            put_on_device=self._places(device_placement),
            rng_types=list(self.rng_types),
            dispatch_batches=config.dispatch_batches,
            even_batches=config.even_batches,
            slice_fn_for_dispatch=slice_fn_for_dispatch,
            use_seedable_sampler=config.use_seedable_sampler,
            data_seed=config.data_seed,
            non_blocking=config.non_blocking,
            use_stateful_dataloader=config.use_stateful_dataloader,
        )
        prepared._is_accelerate_prepared = True
        self._dataloaders.append(prepared)
        return prepared

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
        return any(len(getattr(part, "hf_device_map", ())) > 1 for part in model.modules())


def _noted(prepared: Any, known: list[Any]) -> Any:
    """Return a prepared object, in the list of those of this Accelerator."""
    if not any(one is prepared for one in known):
        known.append(prepared)
    return prepared


def _prepared_twice(what: str) -> AccelnbError:
    return AccelnbError(
        f"this {what} was prepared before: use what prepare() returned, or call free_memory() "
        "first to prepare it anew"
    )
