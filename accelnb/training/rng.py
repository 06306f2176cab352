"""Random numbers that are the same in every run, and on every rank."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import torch

from accelnb.devices.xla_device import XlaRandom
from accelnb.errors import AccelnbError
from accelnb.training import communication
from accelnb.training.enums import RNGType
from accelnb.training.state import AcceleratorState, PartialState

_LARGEST_SEED = 2**32 - 1  # that numpy takes


def set_seed(seed: int, device_specific: bool = False, deterministic: bool = False) -> None:
    """Seed the generators of Python, numpy and torch, on all devices of this process.

    Parameters
    ----------
    device_specific
        Add the rank, so that each rank draws numbers of its own. Ranks that compute on the same
        data, as those of one tensor-parallel group, draw the same: seed after the Accelerator was
        made.
    deterministic
        Make torch use only algorithms that give the same numbers in every run. It is slower, and
        an operation that has none raises an error. For cuBLAS, ``CUBLAS_WORKSPACE_CONFIG`` is
        set too, if it is not: call this before CUDA is first used.

    Raises
    ------
    AccelnbError
        The seed is not in the range that all generators take, 0 to 2**32 - 1. None was seeded.

    Examples
    --------
    >>> import random
    >>> from accelnb.utils import set_seed
    >>> set_seed(0)
    >>> first = random.random()
    >>> set_seed(0)
    >>> random.random() == first
    True
    """
    if device_specific:
        seed += AcceleratorState._shared_state.get("data_share", PartialState().process_index)
    if not 0 <= seed <= _LARGEST_SEED:
        raise AccelnbError(f"seed={seed}: choose a number from 0 to {_LARGEST_SEED}")
    random.seed(seed)
    if find_spec("numpy") is not None:
        import numpy

        numpy.random.seed(seed)
    torch.manual_seed(seed)  # the CPU, CUDA, XPU and MPS
    if "torch_xla" in sys.modules:
        random_of(RNGType.XLA).set_rng_state(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def synchronize_rng_state(
    rng_type: RNGType | str | None = None, generator: torch.Generator | None = None
) -> None:
    """Give a random number generator of all ranks the state that it has on rank 0.

    Every rank has to call it.

    Parameters
    ----------
    rng_type
        ``torch`` (the default), ``cuda``, ``xpu``, ``xla`` or ``generator``.
    generator
        The one that ``generator`` stands for.

    Raises
    ------
    AccelnbError
        The type is unknown, has no device here, or there is no generator. Nothing was sent.

    Examples
    --------
    >>> from accelnb.utils import synchronize_rng_state
    >>> synchronize_rng_state("torch")
    """
    synchronize_rng_states([rng_type or RNGType.TORCH], generator)


def synchronize_rng_states(
    rng_types: Iterable[RNGType | str], generator: torch.Generator | None = None
) -> None:
    """Do what `synchronize_rng_state` does for each of several generators.

    Examples
    --------
    >>> import torch
    >>> from accelnb.utils import synchronize_rng_states
    >>> synchronize_rng_states(["torch", "generator"], torch.Generator())
    """
    kinds = [_known_kind(rng_type) for rng_type in rng_types]
    states = [_state_of(kind, generator) for kind in kinds]
    process = PartialState()
    if not process.use_distributed:
        return
    for kind, state in zip(kinds, states, strict=True):
        shared = communication.broadcast(state.to(communication.wire_device()), from_process=0)
        _restore(kind, shared.cpu(), generator)


def _known_kind(rng_type: RNGType | str) -> RNGType:
    if rng_type not in RNGType.list():
        choices = ", ".join(RNGType.list())
        raise AccelnbError(f"rng_type={rng_type}: choose one of {choices}")
    return RNGType(rng_type)


def _state_of(kind: RNGType, generator: torch.Generator | None) -> torch.Tensor:
    if kind == RNGType.TORCH:
        return torch.get_rng_state()
    if kind == RNGType.GENERATOR:
        if generator is None:
            raise AccelnbError("rng_type=generator: pass the generator too")
        return generator.get_state()
    module = random_of(kind)
    if module is None or not module.is_available():
        raise AccelnbError(f"rng_type={kind}: this process has no {kind} device")
    return module.get_rng_state()


def _restore(kind: RNGType, state: torch.Tensor, generator: torch.Generator | None) -> None:
    if kind == RNGType.TORCH:
        torch.set_rng_state(state)
    elif generator is not None and kind == RNGType.GENERATOR:
        generator.set_state(state)
    else:
        random_of(kind).set_rng_state(state)


def random_of(kind: str) -> Any:
    """Return what has the random numbers of a type of device, None without its plugin."""
    return XlaRandom() if kind == RNGType.XLA else getattr(torch, kind, None)
