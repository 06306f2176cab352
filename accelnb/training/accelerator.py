"""`Accelerator`: run a raw PyTorch training loop on any device and any number of processes.

Its constructor makes the parts, each of which is told all that it needs. What they offer is in the
classes that `Accelerator` derives from, which only pass it on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from accelnb.errors import AccelnbError
from accelnb.training import arguments, arrangement, memory, profiling, whereabouts
from accelnb.training.accumulation import AccumulationMethods
from accelnb.training.checkpoint.checkpoints import Checkpoints
from accelnb.training.checkpoint.contents import Training
from accelnb.training.checkpoint.methods import CheckpointMethods
from accelnb.training.collectives import CollectiveMethods
from accelnb.training.configuration import (
    AORecipeKwargs,
    AutocastKwargs,
    DataLoaderConfiguration,
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    GradScalerKwargs,
    InitProcessGroupKwargs,
    KwargsHandler,
    ProfileKwargs,
    ProjectConfiguration,
    TorchDynamoPlugin,
)
from accelnb.training.enums import DistributedType, DynamoBackend, LoggerType, RNGType
from accelnb.training.fsdp_plugin import FullyShardedDataParallelPlugin
from accelnb.training.gradients import Accumulation, GradientState
from accelnb.training.mesh_properties import MeshProperties
from accelnb.training.parallel.parallelize import strategy_for
from accelnb.training.parallel.plan import Plan
from accelnb.training.parallel_methods import ParallelMethods
from accelnb.training.parallelism_config import ParallelismConfig
from accelnb.training.precision import Precision
from accelnb.training.preparation import PreparationMethods
from accelnb.training.prepared import Preparation, Prepared
from accelnb.training.process_control import ProcessControl
from accelnb.training.state import AcceleratorState, PartialState, chosen_precision
from accelnb.training.tracking.base import GeneralTracker
from accelnb.training.tracking.methods import TrackingMethods
from accelnb.training.tracking.registry import filter_trackers
from accelnb.training.tracking.trackers import Trackers


class Accelerator(
    PreparationMethods,
    AccumulationMethods,
    CollectiveMethods,
    CheckpointMethods,
    TrackingMethods,
    MeshProperties,
    ParallelMethods,
    ProcessControl,
):
    """Trains a raw PyTorch loop on whatever processes and devices the launch gave it.

    Its names, arguments and meaning are those of Hugging Face Accelerate; docs/parity.md says
    where it differs. What is not given comes from the launch: from the options of the
    ``%%distributed`` cell, of torchrun, or of ``accelerate launch``.

    Parameters
    ----------
    device_placement
        Move models, batches and optimizer states to the device.
    split_batches
        As in `DataLoaderConfiguration`.
    mixed_precision
        ``no``, ``fp16``, ``bf16`` or ``fp8``.
    gradient_accumulation_steps
        Batches of each process for one optimizer step.
    cpu
        Compute on the CPU.
    dataloader_config
        How data is divided.
    rng_types
        Random number generators that are made equal on all processes at each epoch: of
        ``generator``, ``torch``, ``cuda``.
    log_with
        Experiment trackers, by name or as `GeneralTracker`. In a ``%%distributed`` cell the
        notebook itself is the default.
    project_dir, project_config
        Where logs and checkpoints lie.
    gradient_accumulation_plugin
        Instead of `gradient_accumulation_steps`, with more to set.
    step_scheduler_with_optimizer
        Schedulers step only when the optimizer does.
    scheduler_steps_per_update
        How often a scheduler steps for one step of the optimizer: by default the number of
        processes (1 with `split_batches`), as in Accelerate. 1 fits schedules whose length is
        counted in optimizer steps.
    kwargs_handlers
        At most one of each: `AutocastKwargs`, `DistributedDataParallelKwargs`,
        `GradScalerKwargs`, `InitProcessGroupKwargs`, `ProfileKwargs`, `AORecipeKwargs`.
    dynamo_backend, dynamo_plugin
        Compile models with ``torch.compile``.
    activation_checkpointing
        Compute the activations of a model's repeated blocks again in the backward pass instead of
        keeping them.
    fsdp_plugin
        Divide models over the processes, as it says.
    parallelism_config
        How the processes share the work, by dimension; instead of ``--mesh``.
    **absent
        Plugins of Accelerate that are not here, such as `deepspeed_plugin`: only None.

    Raises
    ------
    AccelnbError
        An argument is wrong, or the device cannot do what is asked.

    Examples
    --------
    >>> import torch
    >>> from accelnb import Accelerator
    >>> accelerator = Accelerator(gradient_accumulation_steps=2)
    >>> model = torch.nn.Linear(4, 1)
    >>> data = torch.utils.data.TensorDataset(torch.ones(8, 4), torch.zeros(8, 1))
    >>> model, optimizer, loader = accelerator.prepare(
    ...     model, torch.optim.SGD(model.parameters(), 0.1), torch.utils.data.DataLoader(data, 2)
    ... )
    >>> for x, y in loader:
    ...     with accelerator.accumulate(model):
    ...         loss = torch.nn.functional.mse_loss(model(x), y)
    ...         accelerator.backward(loss)
    ...         optimizer.step()
    ...         optimizer.zero_grad()
    >>> accelerator.sync_gradients
    True
    """

    # Not in this version; third-party code asks for it.
    deepspeed_plugin = None
    fp8_backend: str | None = None

    def __init__(
        self,
        device_placement: bool = True,
        split_batches: bool | None = None,
        mixed_precision: str | None = None,
        gradient_accumulation_steps: int | None = None,
        cpu: bool = False,
        dataloader_config: DataLoaderConfiguration | None = None,
        *,
        rng_types: Sequence[str | RNGType] | None = None,
        log_with: str
        | LoggerType
        | GeneralTracker
        | Sequence[str | LoggerType | GeneralTracker]
        | None = None,
        project_dir: str | os.PathLike[str] | None = None,
        project_config: ProjectConfiguration | None = None,
        gradient_accumulation_plugin: GradientAccumulationPlugin | None = None,
        step_scheduler_with_optimizer: bool = True,
        scheduler_steps_per_update: int | None = None,
        kwargs_handlers: Sequence[KwargsHandler] | None = None,
        dynamo_backend: DynamoBackend | str | None = None,
        dynamo_plugin: TorchDynamoPlugin | None = None,
        activation_checkpointing: bool = False,
        fsdp_plugin: FullyShardedDataParallelPlugin | None = None,
        parallelism_config: ParallelismConfig | None = None,
        **absent: None,
    ) -> None:
        arguments.refuse_absent(absent)
        handlers = arguments.handlers_by_type(kwargs_handlers or ())
        plugin = arguments.accumulation(gradient_accumulation_steps, gradient_accumulation_plugin)
        data = arguments.data_configuration(dataloader_config, split_batches)
        if dynamo_backend is not None and dynamo_plugin is not None:
            raise AccelnbError("give one of dynamo_backend and dynamo_plugin, not both")
        dynamo = dynamo_plugin or TorchDynamoPlugin(backend=dynamo_backend)
        kind = chosen_precision(mixed_precision)
        fsdp_plugin = arrangement.fsdp_plugin(fsdp_plugin)
        parallelism_config = arrangement.parallelism(parallelism_config)
        strategy = arrangement.asked_strategy(fsdp_plugin)
        group = handlers.get(InitProcessGroupKwargs, InitProcessGroupKwargs()).to_kwargs()
        self.rng_types = [str(RNGType(name)) for name in rng_types or ("generator",)]
        project = project_config or ProjectConfiguration()
        if project_dir is not None:
            project.set_directories(project_dir)
        trackers = filter_trackers(log_with, project.logging_dir)
        process = PartialState(cpu, **group)
        self.mesh = arrangement.arranged(process, strategy, parallelism_config)
        sizes = arrangement.parallelism_on(self.mesh, parallelism_config)
        plan = Plan(
            strategy=arrangement.strategy_on(self.mesh, strategy),
            precision=Precision(
                kind,
                process.device.type,
                handlers.get(AutocastKwargs, AutocastKwargs()),
                handlers.get(AORecipeKwargs, AORecipeKwargs()),
            ),
            ddp=handlers.get(DistributedDataParallelKwargs, DistributedDataParallelKwargs()),
            **arrangement.handlers(fsdp_plugin, sizes),
            compilation=dynamo,
            activation_checkpointing=activation_checkpointing,
            device_placement=device_placement,
        )
        self.scaler = plan.precision.make_scaler(handlers.get(GradScalerKwargs))
        self.strategy = strategy_for(self.mesh, plan).on(self.mesh, plan)

        # From here on nothing is refused: what all Accelerators of a process share is changed.
        self.state = AcceleratorState(kind, cpu, dynamo, **group)
        self.state.data_share = self.mesh.data_share
        self.device = self.state.device
        self.parallelism_config = sizes
        # Third-party code asks for it.
        self.state.fsdp_plugin = vars(self.strategy).get("plugin")
        if self.strategy.shards:
            self.state.distributed_type = DistributedType.FSDP
        self.distributed_type = self.state.distributed_type
        self.num_processes = self.state.num_processes
        self.process_index = self.state.process_index
        self.local_process_index = self.state.local_process_index

        self.autocast_handler: AutocastKwargs | None = handlers.get(AutocastKwargs)
        self.ddp_handler: DistributedDataParallelKwargs | None = handlers.get(
            DistributedDataParallelKwargs
        )
        self.profile_handler: ProfileKwargs | None = handlers.get(ProfileKwargs)
        self.mixed_precision = kind
        self.fp8_backend = "AO" if kind == "fp8" else None

        self.gradient_state = GradientState(plugin)
        self.gradient_state.sync_gradients = True
        self.device_placement = device_placement
        self.step_scheduler_with_optimizer = step_scheduler_with_optimizer
        self.scheduler_steps_per_update = scheduler_steps_per_update
        self._accumulation = Accumulation()
        self._prepared = Prepared()
        self._preparation = Preparation(self._prepared, self.mesh, plan, self.strategy, data)
        self._custom_objects: list[Any] = []
        CheckpointMethods.__init__(self, Checkpoints(self._training, project))
        TrackingMethods.__init__(self, Trackers(trackers, project, self.state))

    def _training(self) -> Training:
        """Return what a checkpoint is of, as it is now."""
        return Training(
            process=self.state,
            models=self._models,
            optimizers=self._optimizers,
            schedulers=self._schedulers,
            loaders=self._dataloaders,
            custom=self._custom_objects,
            scaler=self.scaler,
            gradients=self.gradient_state,
            accumulation=self._accumulation,
            strategy=self.strategy,
            mesh=self.mesh,
            whole=getattr(self.plan.fsdp, "saves_whole", False),
        )

    # ---- what was prepared, for third-party code ----

    @property
    def _models(self) -> list[Any]:
        return self._prepared.models

    @_models.setter
    def _models(self, models: list[Any]) -> None:
        self._prepared.models = models

    @property
    def _optimizers(self) -> list[Any]:
        return self._prepared.optimizers

    @_optimizers.setter
    def _optimizers(self, optimizers: list[Any]) -> None:
        self._prepared.optimizers = optimizers

    @property
    def _schedulers(self) -> list[Any]:
        return self._prepared.schedulers

    @_schedulers.setter
    def _schedulers(self, schedulers: list[Any]) -> None:
        self._prepared.schedulers = schedulers

    @property
    def _dataloaders(self) -> list[Any]:
        return self._prepared.loaders

    @_dataloaders.setter
    def _dataloaders(self, loaders: list[Any]) -> None:
        self._prepared.loaders = loaders

    # ---- contexts ----

    def autocast(
        self, autocast_handler: AutocastKwargs | None = None
    ) -> AbstractContextManager[Any]:
        """Return a context in which code outside of a model computes in the mixed precision."""
        return self.precision.autocast(autocast_handler)

    def profile(
        self, profile_handler: ProfileKwargs | None = None
    ) -> AbstractContextManager[torch.profiler.profile]:
        """Return a context that profiles its block with ``torch.profiler``."""
        return profiling.profiled(profile_handler or self.profile_handler or ProfileKwargs(), self)

    @contextmanager
    def join_uneven_inputs(
        self, joinables: Sequence[Any], even_batches: bool | None = None
    ) -> Iterator[None]:
        """Let ranks have different numbers of batches, by ``torch.distributed.algorithms.Join``.

        Parameters
        ----------
        joinables
            Prepared models.
        even_batches
            Within the block, instead of what `dataloader_config` says.
        """
        dividers = [
            loader.divider
            for loader in self._dataloaders
            if even_batches is not None and hasattr(loader.divider, "even_batches")
        ]
        before = [divider.even_batches for divider in dividers]
        even = self.even_batches if even_batches is None else even_batches
        for divider in dividers:
            divider.even_batches = even
        try:
            with self.strategy.join(joinables, enable=not even):
                yield
            whereabouts.collective()  # the ranks may have had different numbers of batches
        finally:
            for divider, value in zip(dividers, before, strict=True):
                divider.even_batches = value

    # ---- the end ----

    def end_training(self) -> None:
        """End the runs of trackers, saves under way, and the process group if it was made here.

        The process group of a ``%%distributed`` cell stays, for the next cell.

        Examples
        --------
        >>> from accelnb import Accelerator
        >>> accelerator = Accelerator()
        >>> accelerator.end_training()
        """
        with ExitStack() as ending:  # the last first, and each also if another fails
            if self.state.made_group:
                whereabouts.collective()  # who waits for this rank learns that it has gone by
                ending.callback(self.state.destroy_process_group)
            ending.callback(self._finish_saves)
            self._trackers.finish()

    def free_memory(self, *objects: Any) -> list[None]:
        """Forget everything that was prepared and free its memory.

        Returns
        -------
        nones : list
            One None for each object, to bind their names to.

        Examples
        --------
        >>> import torch
        >>> from accelnb import Accelerator
        >>> accelerator = Accelerator()
        >>> model = accelerator.prepare(torch.nn.Linear(2, 1))
        >>> (model,) = accelerator.free_memory(model)
        """
        self._finish_saves()
        self._prepared.clear()
        self.step = 0
        return memory.release_memory(*objects)

    def clear(self, *objects: Any) -> list[None]:
        """Do what `free_memory` does."""
        return self.free_memory(*objects)

    # ---- where it is, and what the configuration says ----

    @property
    def step(self) -> int:
        """Batches since the last optimizer step of an accumulation."""
        return self._accumulation.step

    @step.setter
    def step(self, batches: int) -> None:
        self._accumulation.step = batches

    @property
    def project_configuration(self) -> ProjectConfiguration:
        """Where logs and checkpoints lie."""
        return self._checkpoints.project

    @project_configuration.setter
    def project_configuration(self, project: ProjectConfiguration) -> None:
        self._checkpoints.project = self._trackers.project = project

    @property
    def plan(self) -> Plan:
        """How models that are prepared from now on shall train."""
        return self._preparation.plan

    @property
    def precision(self) -> Precision:
        """What models compute in."""
        return self.plan.precision

    @precision.setter
    def precision(self, precision: Precision) -> None:
        self._preparation.plan = replace(self.plan, precision=precision)

    @property
    def activation_checkpointing(self) -> bool:
        return self.plan.activation_checkpointing

    @activation_checkpointing.setter
    def activation_checkpointing(self, value: bool) -> None:
        self._preparation.plan = replace(self.plan, activation_checkpointing=value)

    @property
    def dynamo_plugin(self) -> TorchDynamoPlugin:
        return self.plan.compilation

    @dynamo_plugin.setter
    def dynamo_plugin(self, plugin: TorchDynamoPlugin) -> None:
        self._preparation.plan = replace(self.plan, compilation=plugin)

    @property
    def multi_device(self) -> bool:
        """Whether several accelerators train together; False on several CPU processes."""
        return self.use_distributed and self.distributed_type != DistributedType.MULTI_CPU

    @property
    def dataloader_config(self) -> DataLoaderConfiguration:
        """How data is divided; what is changed here holds for the loaders prepared from then on."""
        return self._preparation.data

    @dataloader_config.setter
    def dataloader_config(self, configuration: DataLoaderConfiguration) -> None:
        self._preparation.data = configuration

    @property
    def split_batches(self) -> bool:
        return self.dataloader_config.split_batches

    @property
    def dispatch_batches(self) -> bool | None:
        return self.dataloader_config.dispatch_batches

    @property
    def even_batches(self) -> bool:
        return self.dataloader_config.even_batches

    @even_batches.setter
    def even_batches(self, value: bool) -> None:
        self.dataloader_config.even_batches = value

    @property
    def use_seedable_sampler(self) -> bool:
        return self.dataloader_config.use_seedable_sampler

    @property
    def non_blocking(self) -> bool:
        return self.dataloader_config.non_blocking

    @property
    def use_stateful_dataloader(self) -> bool:
        return self.dataloader_config.use_stateful_dataloader

    @property
    def native_amp(self) -> bool:
        """Whether models compute in mixed precision."""
        return self.precision.is_mixed

    def __setstate__(self, state: dict[str, Any]) -> None:
        here = PartialState()
        made_for = state.get("process_index"), state.get("num_processes")
        if made_for == (here.process_index, here.num_processes):
            self.__dict__.update(state)
        # Else it stays empty: it stands for another process. Only to use it is an error, for a
        # notebook's Accelerator also comes to ranks that make their own under its name.

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if self.__dict__ or name.startswith("__"):
                raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
            raise AccelnbError(
                "this Accelerator was made in another process, and stands for that one: make one "
                "where it is used, with accelerator = Accelerator() in the cell"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> Accelerator:
        return self  # it stands for this process: there is one
