"""Which process this is, on which device: known once per process and shared by all who ask."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import torch
import torch.distributed as dist

from accelnb.devices import DEVICES, Device, best_available
from accelnb.errors import AccelnbError
from accelnb.options import environment
from accelnb.training.configuration import TorchDynamoPlugin
from accelnb.training.enums import DistributedType, PrecisionType
from accelnb.training.process_control import ProcessControl

# What torchrun sets first; then MPI of Intel, Open MPI and MVAPICH.
RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
WORLD_SIZE = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
LOCAL_RANK = (
    "LOCAL_RANK",
    "MPI_LOCALRANKID",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_RANK",
)
_PORT = 29500  # torch's own default


class PartialState(ProcessControl):
    """This process among the others, for code that needs no Accelerator.

    All instances of a process share their attributes. The first makes the process group, if the
    process was launched as one of several and there is none yet.

    Parameters
    ----------
    cpu
        Compute on the CPU, whatever else the machine has.
    **kwargs
        Of ``torch.distributed.init_process_group``.

    Attributes
    ----------
    backend : str or None
        Of the process group; None without one.
    debug : bool
        Whether collectives are checked first (``ACCELERATE_DEBUG_MODE=1``).
    made_group : bool
        Whether the process group was made here. In a ``%%distributed`` cell it was not.

    Raises
    ------
    AccelnbError
        Several processes were started, but nothing says where they meet.

    Examples
    --------
    >>> from accelnb import PartialState
    >>> PartialState().num_processes
    1
    """

    _shared_state: ClassVar[dict[str, Any]] = {}

    _cpu: bool
    backend: str | None
    debug: bool
    made_group: bool

    def __init__(self, cpu: bool = False, **kwargs: Any) -> None:
        self.__dict__ = self._shared_state
        if not self.initialized:
            self._initialize(cpu or environment.flag(environment.USE_CPU), kwargs)

    def _initialize(self, cpu: bool, kwargs: dict[str, Any]) -> None:
        kind = DEVICES["cpu"] if cpu else _launched_on() or best_available()
        kind.load()
        launched = _was_launched()
        made_group = launched and not dist.is_initialized()
        if made_group:
            _make_group(kind, kwargs)
        grouped = dist.is_initialized()
        num_processes = dist.get_world_size() if grouped else 1
        index = dist.get_rank() if grouped else 0
        local_index = environment.number(*LOCAL_RANK, default=index)
        chosen = os.environ.get("ACCELERATE_TORCH_DEVICE")
        if chosen:
            device = torch.device(chosen)
        else:
            device = kind.take(local_index) if launched else torch.device(kind.type)
        several = num_processes > 1
        self.__dict__.update(
            _cpu=cpu,
            backend=dist.get_backend() if grouped else None,
            debug=environment.flag("ACCELERATE_DEBUG_MODE"),
            device=device,
            distributed_type=DistributedType(kind.kind) if several else DistributedType.NO,
            fork_launched=environment.flag("FORK_LAUNCHED"),
            local_process_index=local_index,
            made_group=made_group,
            num_processes=num_processes,
            process_index=index,
        )

    @property
    def initialized(self) -> bool:
        return bool(self._shared_state)

    @property
    def default_device(self) -> torch.device:
        """The best device of this machine."""
        return torch.device(best_available().type)

    def set_device(self) -> None:
        """Choose this process's device, if it has none."""
        if "device" not in self.__dict__:
            self.device = best_available().take(self.local_process_index)

    def destroy_process_group(self, group: Any = None) -> None:
        """End the process group, or only `group`."""
        if self.fork_launched and group is None:
            return
        if dist.is_initialized():
            dist.destroy_process_group(group)

    @staticmethod
    def _reset_state() -> None:
        """Forget everything: the next instance looks anew."""
        PartialState._shared_state.clear()

    def __repr__(self) -> str:
        backend = f"  Backend: {self.backend}" if self.backend else ""
        return (
            f"Distributed environment: {self.distributed_type}{backend}\n"
            f"Num processes: {self.num_processes}\n"
            f"Process index: {self.process_index}\n"
            f"Local process index: {self.local_process_index}\n"
            f"Device: {self.device}\n"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()  # a copy in another process is that process's own

    def __getattr__(self, name: str) -> Any:
        hint = "" if self.initialized else " before it was made: call Accelerator() first"
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{hint}")


class AcceleratorState(PartialState):
    """What `PartialState` knows, and the precision of the newest Accelerator.

    A new Accelerator may have another precision than the one before: what was prepared by the
    older keeps its own.

    Parameters
    ----------
    mixed_precision
        By default that of the launch (``--precision``), else ``no``.

    Raises
    ------
    AccelnbError
        The precision is unknown, or the CPU is asked for where the ranks compute elsewhere.

    Examples
    --------
    >>> from accelnb import Accelerator, AcceleratorState
    >>> accelerator = Accelerator(mixed_precision="bf16")
    >>> AcceleratorState().mixed_precision
    'bf16'
    """

    _shared_state: ClassVar[dict[str, Any]] = {}

    mixed_precision: str
    dynamo_plugin: TorchDynamoPlugin
    data_share: int  # which part of the data the process computes on
    fsdp_plugin: Any = None  # a `FullyShardedDataParallelPlugin`, where models are sharded
    deepspeed_plugin = None  # third-party code asks for it

    def __init__(
        self,
        mixed_precision: str | None = None,
        cpu: bool = False,
        dynamo_plugin: TorchDynamoPlugin | None = None,
        **kwargs: Any,
    ) -> None:
        self.__dict__ = self._shared_state
        partial = PartialState(cpu, **kwargs)
        if cpu and partial.device.type != "cpu":
            raise AccelnbError(
                f"cpu=True: this process computes on {partial.device} already; start it with "
                "--device cpu, or restart the kernel"
            )
        self.__dict__.update(partial.__dict__)
        if mixed_precision is None and self.initialized:
            return  # asked for, not changed
        self.mixed_precision = chosen_precision(mixed_precision)
        self.dynamo_plugin = dynamo_plugin or TorchDynamoPlugin()

    @property
    def initialized(self) -> bool:
        return "mixed_precision" in self._shared_state

    @staticmethod
    def _reset_state(reset_partial_state: bool = False) -> None:
        """Forget the precision; with `reset_partial_state` also which process this is."""
        AcceleratorState._shared_state.clear()
        if reset_partial_state:
            PartialState._reset_state()

    def __repr__(self) -> str:
        return f"{super().__repr__()}\nMixed precision type: {self.mixed_precision}\n"


def is_initialized() -> bool:
    """Return whether this process knows its precision: an Accelerator was made, or its state."""
    return bool(AcceleratorState._shared_state)


def chosen_precision(given: str | None) -> str:
    """Return the precision that was given, or else that of the launch, checked."""
    value = str(given or os.environ.get(environment.MIXED_PRECISION) or "no").lower()
    if value not in PrecisionType.list():
        choices = ", ".join(PrecisionType.list())
        raise AccelnbError(f"mixed_precision={value}: choose one of {choices}")
    return value


def _launched_on() -> Device | None:
    """Return what the launch chose to compute on, None if it was left to this process."""
    return DEVICES.get(os.environ.get(environment.DEVICE, ""))


def _was_launched() -> bool:
    several = environment.number(*WORLD_SIZE, default=1) > 1
    return dist.is_initialized() or "LOCAL_RANK" in os.environ or several


def _make_group(kind: Device, kwargs: dict[str, Any]) -> None:
    rank = environment.number(*RANK, default=0)
    size = environment.number(*WORLD_SIZE, default=1)
    here = environment.number("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", default=size)
    if not os.environ.get("MASTER_ADDR"):
        if here != size:
            raise AccelnbError(
                f"{size} processes on several machines were started, but MASTER_ADDR is not set: "
                "set it to the name of rank 0's machine, or launch with torchrun"
            )
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    os.environ["MASTER_PORT"] = str(environment.number("MASTER_PORT", default=_PORT))
    given = {name: value for name, value in kwargs.items() if value is not None}
    backend = given.pop("backend", kind.backend_for(environment.flag(environment.SHARED)))
    dist.init_process_group(backend, rank=rank, world_size=size, **given)
