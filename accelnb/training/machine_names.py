"""What this machine and this process are, asked by the names of Accelerate's ``utils``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from torch.torch_version import TorchVersion

from accelnb.devices import best_available
from accelnb.devices.hardware import nvidia
from accelnb.options import environment
from accelnb.training.state import LOCAL_RANK, RANK, WORLD_SIZE

_LOCAL_WORLD_SIZE = (
    "LOCAL_WORLD_SIZE",
    "MPI_LOCALNRANKS",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MV2_COMM_WORLD_LOCAL_SIZE",
)
# GeForce cards of this series reach each other directly only with newer drivers.
_WITHOUT_PEERS = "RTX 40"
_DRIVER_WITH_PEERS = "550.40.07"
_FIRST_WITH_FP8 = (8, 9)


@dataclass
class CPUInformation:
    """The place of this process among those of its launch."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def get_cpu_distributed_information() -> CPUInformation:
    """Return the place of this process, as torchrun or MPI tell it.

    Examples
    --------
    >>> from accelnb.utils import get_cpu_distributed_information
    >>> get_cpu_distributed_information().world_size
    1
    """
    return CPUInformation(
        rank=environment.number(*RANK, default=0),
        world_size=environment.number(*WORLD_SIZE, default=1),
        local_rank=environment.number(*LOCAL_RANK, default=0),
        local_world_size=environment.number(*_LOCAL_WORLD_SIZE, default=1),
    )


def get_current_device_type() -> tuple[str, str]:
    """Return what this machine computes on, for torch and as several processes: nothing is begun.

    Examples
    --------
    >>> from accelnb.utils import get_current_device_type
    >>> get_current_device_type()  # doctest: +SKIP
    ('cuda', 'MULTI_GPU')
    """
    device = best_available()
    return device.type, device.kind


def get_gpu_info() -> tuple[list[str], int]:
    """Return the names and the number of NVIDIA's GPUs; CUDA is not initialised."""
    names = [gpu.name for gpu in nvidia.ask().gpus]
    return names, len(names)


def check_cuda_p2p_ib_support() -> bool:
    """Return False where NVIDIA's GPUs cannot reach each other's memory, so that NCCL must not try.

    So it is with several GeForce RTX 40 and a driver older than 550.40.07.
    """
    found = nvidia.ask()
    concerned = len(found.gpus) > 1 and any(_WITHOUT_PEERS in gpu.name for gpu in found.gpus)
    return not concerned or TorchVersion(str(found.driver)) >= TorchVersion(_DRIVER_WITH_PEERS)


def check_cuda_fp8_capability() -> bool:
    """Return whether the first of NVIDIA's GPUs computes in fp8; without one it is False."""
    gpus = nvidia.ask().gpus
    return bool(gpus) and gpus[0].version >= _FIRST_WITH_FP8


def are_libraries_initialized(*library_names: str) -> list[str]:
    """Return those of some packages that are imported already."""
    return [name for name in library_names if name in sys.modules]


def convert_dict_to_env_variables(current_env: Mapping[str, str]) -> list[str]:
    """Return environment variables as lines of a file; those that no line can hold are left out.

    Examples
    --------
    >>> from accelnb.utils import convert_dict_to_env_variables
    >>> convert_dict_to_env_variables({"ACCELERATE_DEBUG_MODE": "1"})
    ['ACCELERATE_DEBUG_MODE=1\\n']
    """
    lines = []
    for name, value in current_env.items():
        if name and value and not set(name + value) & set(";\n<> "):
            lines.append(f"{name}={value}\n")
        else:
            logging.getLogger(__name__).warning("left out: %s=%s", name, value)
    return lines
