"""The devices of torch_xla, which compute when they are told to, not operation by operation."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

from accelnb.devices.device import Device
from accelnb.errors import AccelnbError

if TYPE_CHECKING:
    import torch

# Set by torch_xla in a process that it launched, and for several ones also the second.
_KNOWS_ITS_PLACE = "PJRT_LOCAL_PROCESS_COUNT"
_ONE_OF_SEVERAL = "PJRT_LOCAL_PROCESS_RANK"
_ALL_SEEDS = 2**64  # torch's integers have a sign
_SAY_TPU = ("TPU_NAME", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_ID")


class XlaDevice(Device):
    """What torch_xla computes on: a TPU, or what ``PJRT_DEVICE`` names."""

    @property
    def module(self) -> Any:
        import torch_xla  # pyright: ignore[reportMissingImports]

        return torch_xla

    def load(self) -> None:
        """Import torch_xla, and bring its launcher and torchrun's environment together."""
        super().load()
        from accelnb.devices import xla_process_group

        xla_process_group.register()
        if _ONE_OF_SEVERAL in os.environ and "RANK" not in os.environ:
            _tell_torch()
        elif "LOCAL_RANK" in os.environ and _KNOWS_ITS_PLACE not in os.environ:
            _tell_torch_xla()

    def is_available(self) -> bool:
        """Return whether torch_xla is installed, and the environment names it or a TPU is there."""
        wanted = "PJRT_DEVICE" in os.environ or _has_tpu()
        return wanted and importlib.util.find_spec("torch_xla") is not None

    def take(self, local_rank: int) -> torch.device:
        """Return this process's device, which torch_xla's launcher gave it."""
        self.load()
        return self.module.device()

    def allocated(self) -> int | None:
        return None  # it would have to wait for what is under way

    def empty_cache(self) -> None:
        """Do nothing: the runtime gives memory back itself."""

    def synchronize(self) -> None:
        if "torch_xla" in sys.modules:
            self.module.sync(wait=True)


class XlaRandom:
    """The random numbers of torch_xla, asked for as ``torch.cuda`` is for its own."""

    def is_available(self) -> bool:
        return importlib.util.find_spec("torch_xla") is not None

    def get_rng_state(self) -> torch.Tensor:
        import torch

        seed = _model().get_rng_state()
        return torch.tensor(seed - _ALL_SEEDS if seed >= _ALL_SEEDS // 2 else seed)

    def set_rng_state(self, state: torch.Tensor | int) -> None:
        _model().set_rng_state(int(state) % _ALL_SEEDS)


def _model() -> Any:
    from torch_xla.core import xla_model  # pyright: ignore[reportMissingImports]

    return xla_model


def _has_tpu() -> bool:
    """Return whether this machine has a TPU; from v5e on its files could be of other hardware."""
    if os.path.exists("/dev/accel0"):
        return True
    return os.path.exists("/dev/vfio/0") and any(os.environ.get(name) for name in _SAY_TPU)


def _tell_torch() -> None:
    """Set what torchrun would have set, in a process that ``xmp.spawn`` made."""
    from torch_xla import runtime  # pyright: ignore[reportMissingImports]

    if runtime.addressable_device_count() > 1:
        raise AccelnbError(
            "torch_xla runs several ranks as threads of this process (TPU v2 and v3), and a rank "
            "here is a process: call torch_xla.runtime.use_spmd() in one process instead"
        )
    ranks, here = runtime.world_size(), runtime.local_process_count()
    os.environ.update(
        RANK=str(runtime.global_ordinal()),
        LOCAL_RANK=os.environ[_ONE_OF_SEVERAL],
        WORLD_SIZE=str(ranks),
        LOCAL_WORLD_SIZE=str(here),
    )
    if ranks > here:
        os.environ.setdefault("MASTER_ADDR", runtime.get_master_ip())


def _tell_torch_xla() -> None:
    """Do what ``xmp.spawn`` would have done, in a process that torchrun made."""
    from torch_xla._internal import pjrt  # pyright: ignore[reportMissingImports]

    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if here > 1:
        pjrt.initialize_multiprocess(int(os.environ["LOCAL_RANK"]), here)
    else:
        pjrt.initialize_singleprocess()
