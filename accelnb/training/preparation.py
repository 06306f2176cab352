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
from accelnb.training.configuration import DataLoaderConfiguration, TorchDynamoPlugin
from accelnb.training.data.prepare import prepare_data_loader, skip_first_batches, undivided
from accelnb.training.data.prepared_loader import PreparedLoader
from accelnb.training.optimizer import AcceleratedOptimizer
from accelnb.training.parallel.strategy import SingleProcess
from accelnb.training.precision import Precision
from accelnb.training.scaler import Scaler
from accelnb.training.scheduler import AcceleratedScheduler
from accelnb.training.unwrapping import extract_model_from_parallel

# The state of an optimizer goes to where the model's parameters are; a scheduler follows its
# prepared optimizer.
_IN_ORDER = (
    (nn.Module, DataLoader),
    (torch.optim.Optimizer,),
    (LRScheduler, AcceleratedScheduler),
)


class PreparationMethods:
    """The part of `Accelerator` that fits a loop's objects to the launch."""

    activation_checkpointing: bool
    dataloader_config: DataLoaderConfiguration
    device: torch.device
    device_placement: bool
    dynamo_plugin: TorchDynamoPlugin
    num_processes: int
    precision: Precision
    process_index: int
    rng_types: list[str]
    scaler: Scaler | None
    scheduler_steps_per_update: int | None
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
        if getattr(model, "_is_accelerate_prepared", False):
            its_own = self.unwrap_model(model)
            if getattr(model, "_is_for_evaluation", True) or self.strategy.has_wrapped(model):
                self.precision.apply_to(its_own)  # another Accelerator's before
                return _noted(model, self._models)
            self.strategy.release(model)
            # Prepared with other options, in the notebook's own process, or on a group that ended.
            self._models[:] = [known for known in self._models if known is not model]
            model = its_own
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
            model = self.strategy.place(model, self.device)
        if not evaluation_mode:
            model = self.strategy.wrap(model)
        model = compilation.compile_model(model, self.dynamo_plugin)
        model.__dict__.update(_is_accelerate_prepared=True, _is_for_evaluation=evaluation_mode)
        self._models.append(model)
        return model

    def prepare_optimizer(
        self, optimizer: torch.optim.Optimizer, device_placement: bool | None = None
    ) -> AcceleratedOptimizer:
        """Prepare an optimizer."""
        if isinstance(optimizer, AcceleratedOptimizer):
            optimizer.scaler, optimizer.strategy = self.scaler, self.strategy
            return _noted(optimizer, self._optimizers)
        if any(known.optimizer is optimizer for known in self._optimizers):
            raise _prepared_twice("optimizer")
        prepared = AcceleratedOptimizer(
            optimizer, self._places(device_placement), self.scaler, self.strategy
        )
        self._optimizers.append(prepared)
        return prepared

    def prepare_scheduler(self, scheduler: LRScheduler | AcceleratedScheduler) -> Any:
        """Prepare a scheduler; its optimizer comes first."""
        if isinstance(scheduler, AcceleratedScheduler):
            scheduler.step_with_optimizer = self.step_scheduler_with_optimizer
            scheduler.steps_per_update = self._scheduler_steps()
            return _noted(scheduler, self._schedulers)
        if any(known.scheduler is scheduler for known in self._schedulers):
            raise _prepared_twice("scheduler")
        its_own = getattr(scheduler, "optimizer", None)
        followed = [o for o in self._optimizers if its_own in (o, o.optimizer)]
        prepared = AcceleratedScheduler(
            scheduler,
            followed or self._optimizers,
            self.step_scheduler_with_optimizer,
            self._scheduler_steps(),
        )
        self._schedulers.append(prepared)
        return prepared

    def _scheduler_steps(self) -> int:
        if self.scheduler_steps_per_update is not None:
            return self.scheduler_steps_per_update
        return 1 if self.dataloader_config.split_batches else self.num_processes

    def prepare_data_loader(
        self,
        data_loader: DataLoader[Any],
        device_placement: bool | None = None,
        slice_fn_for_dispatch: Any = None,
    ) -> Any:
        """Prepare a loader: each rank gets its part of the data, on its device."""
        if getattr(data_loader, "_is_accelerate_prepared", False):
            if not isinstance(data_loader, PreparedLoader) or data_loader.divides_for(
                self.num_processes
            ):
                return _noted(data_loader, self._dataloaders)
            data_loader = undivided(data_loader)  # prepared in the notebook's own process
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
