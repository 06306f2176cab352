"""What can be set about an Accelerator beside its own arguments: dataclasses of Accelerate's
names, defaults and meaning.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from accelnb.errors import AccelnbError
from accelnb.options import environment
from accelnb.training.enums import DDPCommunicationHookType, DynamoBackend


@dataclass
class KwargsHandler:
    """Keyword arguments for something that the Accelerator makes."""

    def to_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def to_kwargs(self) -> dict[str, Any]:
        """Return those that differ from their default."""
        default = type(self)().to_dict()
        return {name: value for name, value in self.to_dict().items() if value != default[name]}


@dataclass
class AutocastKwargs(KwargsHandler):
    """Of ``torch.autocast``, and what becomes of a model's outputs.

    Attributes
    ----------
    outputs : str
        Of an Accelerator's models in mixed precision: ``fp32`` converts tensors of fp16 and bf16,
        as Accelerate does; ``compute`` leaves them as they were computed. By default as the launch
        says (``--outputs``), else ``fp32``.

    Raises
    ------
    AccelnbError
        `outputs` is neither.

    Examples
    --------
    >>> from accelnb.utils import AutocastKwargs
    >>> AutocastKwargs(cache_enabled=False).to_kwargs()
    {'cache_enabled': False}
    """

    enabled: bool = True
    cache_enabled: bool | None = None
    outputs: str | None = None

    def __post_init__(self) -> None:
        name = "outputs" if self.outputs else environment.OUTPUTS
        self.outputs = self.outputs or os.environ.get(environment.OUTPUTS) or "fp32"
        if self.outputs not in ("fp32", "compute"):
            raise AccelnbError(f"{name}={self.outputs}: choose one of fp32, compute")

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().to_dict().items() if name != "outputs"}


@dataclass
class DistributedDataParallelKwargs(KwargsHandler):
    """Of ``DistributedDataParallel``, and how it compresses gradients.

    Attributes
    ----------
    comm_hook : DDPCommunicationHookType
        Compression: to fp16 or bf16, or by PowerSGD (https://arxiv.org/abs/1905.13727).
    comm_wrapper : DDPCommunicationHookType
        ``fp16`` or ``bf16`` around PowerSGD.
    comm_state_option : dict
        Keyword arguments of ``PowerSGDState``.

    Examples
    --------
    >>> from accelnb.utils import DistributedDataParallelKwargs
    >>> DistributedDataParallelKwargs(find_unused_parameters=True).to_kwargs()
    {'find_unused_parameters': True}
    """

    dim: int = 0
    broadcast_buffers: bool = True
    bucket_cap_mb: int = 25
    find_unused_parameters: bool = False
    check_reduction: bool = False
    gradient_as_bucket_view: bool = False
    static_graph: bool = False

    comm_hook: DDPCommunicationHookType | str = DDPCommunicationHookType.NO
    comm_wrapper: DDPCommunicationHookType | str = DDPCommunicationHookType.NO
    comm_state_option: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.comm_hook = DDPCommunicationHookType(self.comm_hook)
        self.comm_wrapper = DDPCommunicationHookType(self.comm_wrapper)

    def to_dict(self) -> dict[str, Any]:
        return {k: v for k, v in super().to_dict().items() if not k.startswith("comm_")}


@dataclass
class GradScalerKwargs(KwargsHandler):
    """Of ``torch.amp.GradScaler``, for fp16.

    Examples
    --------
    >>> from accelnb.utils import GradScalerKwargs
    >>> GradScalerKwargs(growth_interval=100).to_kwargs()
    {'growth_interval': 100}
    """

    init_scale: float = 65536.0
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000
    enabled: bool = True


@dataclass
class InitProcessGroupKwargs(KwargsHandler):
    """Of ``torch.distributed.init_process_group``.

    They have an effect only where the Accelerator makes the process group: in a
    ``%%distributed`` cell it is there before.

    Attributes
    ----------
    backend : str, optional
        By default that of the device.
    timeout : timedelta, optional
        By default torch's.

    Examples
    --------
    >>> from datetime import timedelta
    >>> from accelnb import Accelerator, InitProcessGroupKwargs
    >>> slow = InitProcessGroupKwargs(timeout=timedelta(hours=1))
    >>> accelerator = Accelerator(kwargs_handlers=[slow])
    """

    backend: str | None = None
    init_method: str | None = None
    timeout: timedelta | None = None


@dataclass
class ProfileKwargs(KwargsHandler):
    """Of ``torch.profiler.profile``.

    Attributes
    ----------
    activities : list of str, optional
        Of ``cpu``, ``cuda``, ``xpu``, ``mtia``; by default all there are.
    schedule_option : dict, optional
        Arguments of ``torch.profiler.schedule``.
    output_trace_dir : str, optional
        Where each rank writes its Chrome trace, ``profile_<rank>.json``.

    Examples
    --------
    >>> from accelnb import Accelerator, ProfileKwargs
    >>> accelerator = Accelerator()
    >>> with accelerator.profile(ProfileKwargs(activities=["cpu"])) as profiler:
    ...     total = sum(range(10))
    >>> len(profiler.events()) >= 0
    True
    """

    activities: list[str] | None = None
    schedule_option: dict[str, int] | None = None
    on_trace_ready: Callable[..., Any] | None = None
    record_shapes: bool = False
    profile_memory: bool = False
    with_stack: bool = False
    with_flops: bool = False
    with_modules: bool = False
    output_trace_dir: str | None = None

    def build(self) -> Any:
        """Return the ``torch.profiler.profile``.

        Raises
        ------
        AccelnbError
            An activity or an option of the schedule is unknown.
        """
        import torch

        given = self.to_dict()
        del given["output_trace_dir"]
        activities, schedule = given.pop("activities"), given.pop("schedule_option")
        if activities is not None:
            given["activities"] = [_activity(name) for name in activities]
        if schedule is not None:
            try:
                given["schedule"] = torch.profiler.schedule(**schedule)
            except TypeError as error:
                raise AccelnbError(f"schedule_option={schedule}: {error}") from None
        return torch.profiler.profile(**given)


def _activity(name: str) -> Any:
    from torch.profiler import ProfilerActivity

    known = ProfilerActivity.__members__
    if name.upper() not in known:
        choices = ", ".join(kind.lower() for kind in known if kind.isupper())
        raise AccelnbError(f"activities: {name!r} is none of {choices}")
    return known[name.upper()]


@dataclass
class AORecipeKwargs(KwargsHandler):
    """Of fp8 training by torchao.

    Attributes
    ----------
    config : torchao.float8.Float8LinearConfig, optional
        With ``emulate=True`` it runs on any device, slowly.
    module_filter_func : callable, optional
        Called with a module and its name; returns whether it computes in fp8. By default every
        ``nn.Linear`` but the first and the last, with sizes that are multiples of 16.
    """

    config: Any = None
    module_filter_func: Callable[[Any, str], bool] | None = None


@dataclass
class GradientAccumulationPlugin(KwargsHandler):
    """How gradients are accumulated.

    Attributes
    ----------
    num_steps : int
        Batches of each rank for one optimizer step.
    adjust_scheduler : bool
        Count the batches between as scheduler steps too (they do not change the rate).
    sync_with_dataloader : bool
        Step also at the end of the loader, however many batches there were.
    sync_each_batch : bool
        Average gradients at every batch all the same: less memory with sharded gradients.
    """

    num_steps: int = 1
    adjust_scheduler: bool = True
    sync_with_dataloader: bool = True
    sync_each_batch: bool = False


@dataclass
class TorchDynamoPlugin(KwargsHandler):
    """Of ``torch.compile``, which `prepare` then applies to models.

    Attributes
    ----------
    use_regional_compilation : bool
        Compile the blocks that a model repeats once, instead of the whole: a deep stack then
        starts much faster.
    """

    backend: DynamoBackend | str | None = None
    mode: str | None = None
    fullgraph: bool | None = None
    dynamic: bool | None = None
    options: Any = None
    disable: bool = False
    use_regional_compilation: bool | None = None

    def __post_init__(self) -> None:
        said = os.environ.get
        self.backend = DynamoBackend(self.backend or said("ACCELERATE_DYNAMO_BACKEND", "NO"))
        self.mode = self.mode or said("ACCELERATE_DYNAMO_MODE", "default")
        if self.fullgraph is None:
            self.fullgraph = environment.flag("ACCELERATE_DYNAMO_USE_FULLGRAPH")
        if self.use_regional_compilation is None:
            name = "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION"
            self.use_regional_compilation = environment.flag(name)
        if self.dynamic is None and said("ACCELERATE_DYNAMO_USE_DYNAMIC") is not None:
            self.dynamic = environment.flag("ACCELERATE_DYNAMO_USE_DYNAMIC")

    def to_kwargs(self) -> dict[str, Any]:
        """Return the arguments for ``torch.compile``."""
        given = {k: v for k, v in self.to_dict().items() if v is not None}
        del given["use_regional_compilation"]
        given["backend"] = str(self.backend).lower()
        if given.get("mode") == "default":
            del given["mode"]
        return given


@dataclass
class DataLoaderConfiguration:
    """How `prepare` divides a loader's data among the ranks.

    Attributes
    ----------
    split_batches : bool
        A batch of the loader is divided among the ranks; otherwise each rank gets whole ones.
    dispatch_batches : bool, optional
        Rank 0 reads all data and sends each rank its part. By default for iterable datasets.
    even_batches : bool
        Repeat samples from the beginning, so that all ranks have as many batches of one size.
    use_seedable_sampler : bool
        Shuffle by a seed and the epoch's number alone. A sampler that draws in a way of its own
        (weighted, or a subclass with its own ``__iter__``) is used as it is.
    data_seed : int, optional
        That seed, for all loaders; by default that of the loader's `SeedableRandomSampler` or
        generator, else torch's initial seed.
    non_blocking : bool
        Move batches to the device without waiting (pin the loader's memory).
    use_stateful_dataloader : bool
        A checkpoint remembers the place in the epoch, and the next epoch goes on there. Exact
        for map-style datasets; others need torchdata's ``StatefulDataLoader``.

    Examples
    --------
    >>> from accelnb import Accelerator, DataLoaderConfiguration
    >>> config = DataLoaderConfiguration(split_batches=True)
    >>> Accelerator(dataloader_config=config).split_batches
    True
    """

    split_batches: bool = False
    dispatch_batches: bool | None = None
    even_batches: bool = True
    use_seedable_sampler: bool = False
    data_seed: int | None = None
    non_blocking: bool = False
    use_stateful_dataloader: bool = False


@dataclass
class ProjectConfiguration:
    """Where a project's logs and checkpoints lie.

    Attributes
    ----------
    automatic_checkpoint_naming : bool
        ``save_state()`` writes ``project_dir/checkpoints/checkpoint_0``, ``_1`` ...
    total_limit : int, optional
        How many of these are kept.
    iteration : int
        The number of the next.
    save_on_each_node : bool
        Each machine writes; by default only the main process of all.
    """

    project_dir: str | os.PathLike[str] | None = None
    logging_dir: str | os.PathLike[str] | None = None
    automatic_checkpoint_naming: bool = False
    total_limit: int | None = None
    iteration: int = 0
    save_on_each_node: bool = False

    def __post_init__(self) -> None:
        self.set_directories(self.project_dir)

    def set_directories(self, project_dir: str | os.PathLike[str] | None = None) -> None:
        self.project_dir = project_dir
        if self.logging_dir is None:
            self.logging_dir = project_dir
