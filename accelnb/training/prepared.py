"""What an Accelerator has prepared, and how it prepares each kind of object."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from accelnb.errors import AccelnbError
from accelnb.training.configuration import DataLoaderConfiguration
from accelnb.training.data.prepare import prepare_data_loader, undivided
from accelnb.training.data.prepared_loader import PreparedLoader
from accelnb.training.data.uneven import refuse_uneven
from accelnb.training.optimizer import AcceleratedOptimizer
from accelnb.training.parallel.fully_sharded.unused_parameters import reduce_as_if_used
from accelnb.training.parallel.mesh import Mesh
from accelnb.training.parallel.meta_start.fill import divides
from accelnb.training.parallel.mixed_precision import apply_precision
from accelnb.training.parallel.offloaded import refuse_to_train
from accelnb.training.parallel.parallelize import parallelize
from accelnb.training.parallel.placement import check_device_map
from accelnb.training.parallel.plan import Plan
from accelnb.training.parallel.strategy import Strategy, is_sharded
from accelnb.training.parallel.swap import Parameters, follow, refuse_undividable_state
from accelnb.training.parallel.unwrapping import extract_model_from_parallel
from accelnb.training.parallel.whole import refuse_copies
from accelnb.training.parallel.whole_state_dict import take_whole_weights
from accelnb.training.scaler import Scaler
from accelnb.training.scheduler import AcceleratedScheduler


@dataclass
class Prepared:
    """What was prepared, each kind in its order."""

    models: list[nn.Module] = field(default_factory=list)
    optimizers: list[AcceleratedOptimizer] = field(default_factory=list)
    schedulers: list[AcceleratedScheduler] = field(default_factory=list)
    loaders: list[Any] = field(default_factory=list)

    def clear(self) -> None:
        for things in (self.models, self.optimizers, self.schedulers, self.loaders):
            things.clear()


@dataclass
class Preparation:
    """How an Accelerator prepares objects. What it returned before it fits to itself again."""

    prepared: Prepared
    mesh: Mesh
    plan: Plan
    strategy: Strategy
    data: DataLoaderConfiguration

    def model(
        self, model: nn.Module, placed: bool, on_several_devices: bool, evaluation_mode: bool
    ) -> nn.Module:
        placed = placed and not on_several_devices
        plan = replace(self.plan, device_placement=placed, evaluation_mode=evaluation_mode)
        known = self.prepared.models
        if getattr(model, "_is_accelerate_prepared", False):
            its_own = extract_model_from_parallel(model)
            if getattr(model, "_is_for_evaluation", False):
                is_ready = evaluation_mode  # else it is to be trained now
            else:
                is_ready = self.strategy.has_wrapped(model)
            if is_ready:
                apply_precision(its_own, self.mesh, plan)  # another Accelerator's before
                return _noted(model, known)
            self.strategy.release(model)
            # Prepared with other options, in the notebook's own process, or on a group that ended.
            known[:] = [other for other in known if other is not model]
            model = its_own
        if any(extract_model_from_parallel(other) is model for other in known):
            raise _prepared_twice("model")
        check_device_map(on_several_devices, self.mesh)
        if is_sharded(model):
            self._refuse_uneven(self.prepared.loaders)
        before = Parameters(model) if divides(self.mesh, plan) else None
        self.check_optimizers(other.optimizer for other in self.prepared.optimizers)
        model = parallelize(model, self.mesh, plan)
        if is_sharded(model) and not evaluation_mode:
            reduce_as_if_used(model)
            take_whole_weights(model)
        model.__dict__.update(_is_accelerate_prepared=True, _is_for_evaluation=evaluation_mode)
        known.append(model)
        if before is not None:
            refuse_copies(model)
            before.note_replaced()
            for other in self.prepared.optimizers:
                follow(other.optimizer, known)
        return model

    def check_optimizers(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Refuse optimizers that could not follow a model which is divided, before it is."""
        if divides(self.mesh, self.plan):
            for optimizer in optimizers:
                refuse_undividable_state(optimizer)

    def optimizer(
        self, optimizer: torch.optim.Optimizer, placed: bool, scaler: Scaler | None
    ) -> AcceleratedOptimizer:
        known = self.prepared.optimizers
        if isinstance(optimizer, AcceleratedOptimizer):
            follow(optimizer.optimizer, self.prepared.models)
            optimizer.scaler, optimizer.strategy = scaler, self.strategy
            return _noted(optimizer, known)
        if any(other.optimizer is optimizer for other in known):
            raise _prepared_twice("optimizer")
        refuse_to_train(self.prepared.models, optimizer)
        follow(optimizer, self.prepared.models)
        known.append(AcceleratedOptimizer(optimizer, placed, scaler, self.strategy))
        return known[-1]

    def scheduler(
        self, scheduler: LRScheduler | AcceleratedScheduler, with_optimizer: bool, steps: int | None
    ) -> AcceleratedScheduler:
        if steps is None:
            steps = 1 if self.data.split_batches else self.mesh.data_shares
        known, optimizers = self.prepared.schedulers, self.prepared.optimizers
        if isinstance(scheduler, AcceleratedScheduler):
            scheduler.step_with_optimizer, scheduler.steps_per_update = with_optimizer, steps
            return _noted(scheduler, known)
        if any(other.scheduler is scheduler for other in known):
            raise _prepared_twice("scheduler")
        its_own = getattr(scheduler, "optimizer", None)
        followed = [o for o in optimizers if its_own in (o, o.optimizer)]
        known.append(AcceleratedScheduler(scheduler, followed or optimizers, with_optimizer, steps))
        return known[-1]

    def loader(
        self, loader: DataLoader[Any], placed: bool, rng_types: list[str], slice_fn: Any
    ) -> Any:
        known = self.prepared.loaders
        if getattr(loader, "_is_accelerate_prepared", False):
            if not isinstance(loader, PreparedLoader) or loader.divides_for(self.mesh.data_shares):
                return _noted(loader, known)
            loader = undivided(loader)  # prepared in the notebook's own process
        prepared: Any = prepare_data_loader(
            loader,
            self.mesh.device,
            put_on_device=placed,
            rng_types=list(rng_types),
            slice_fn_for_dispatch=slice_fn,
            mesh=self.mesh,
            **{f.name: getattr(self.data, f.name) for f in fields(DataLoaderConfiguration)},
        )
        if self.strategy.shards or any(map(is_sharded, self.prepared.models)):
            self._refuse_uneven([prepared])
        prepared._is_accelerate_prepared = True
        known.append(prepared)
        return prepared

    def _refuse_uneven(self, loaders: Iterable[Any]) -> None:
        if not self.data.even_batches and self.mesh.data_shares > 1:
            for loader in loaders:
                refuse_uneven(loader)


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
