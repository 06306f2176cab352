"""The states of a process's random number generators, as plain values and tensors."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from accelnb.errors import AccelnbError
from accelnb.training.rng import random_of

try:
    from numpy import random as numpy_random
except ImportError:  # torch does without
    numpy_random = None

_PYTHON = "random_state"
_NUMPY = "numpy_random_seed"
_TORCH = "torch_manual_seed"
_NAMES = {"xla": "xm_seed"}  # Accelerate's; other devices are called by their types


def capture(device: torch.device) -> dict[str, Any]:
    """Return the states of python's, numpy's and torch's generators, and of the device's.

    Examples
    --------
    >>> import random, torch
    >>> from accelnb.training.checkpoint.rng_states import capture, restore
    >>> cpu = torch.device("cpu")
    >>> states = capture(cpu)
    >>> before = random.random(), torch.rand(1)
    >>> restore(states, cpu)
    >>> before == (random.random(), torch.rand(1))
    True
    """
    states: dict[str, Any] = {_PYTHON: random.getstate(), _TORCH: torch.get_rng_state()}
    if numpy_random is not None:
        state: Any = numpy_random.get_state()
        name, keys, *rest = state
        states[_NUMPY] = (name, torch.from_numpy(keys.astype("int64")), *rest)
    if device.type != "cpu":
        states[_of_device(device)] = random_of(device.type).get_rng_state()
    return states


def check(states: Any, path: Path) -> None:
    """Try the states that were read from `path` on other generators.

    Raises
    ------
    AccelnbError
        They are none.
    """
    try:
        scratch = numpy_random and numpy_random.RandomState()
        _set(states, random.Random(), torch.Generator(), scratch)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise AccelnbError(f"{path} holds no states of random number generators: {error}") from None


def restore(states: dict[str, Any], device: torch.device) -> None:
    """Go on with the random numbers that would have come after `capture`."""
    _set(states, random, torch.default_generator, numpy_random)
    own = states.get(_of_device(device))
    if isinstance(own, list):  # Accelerate saves those of all devices of the machine
        index = device.index or 0
        own = own[index] if index < len(own) else None
    if own is not None and device.type != "cpu":
        random_of(device.type).set_rng_state(own)


def _of_device(device: torch.device) -> str:
    return _NAMES.get(device.type, f"torch_{device.type}_manual_seed")


def _set(states: Any, python: Any, of_torch: torch.Generator, of_numpy: Any) -> None:
    python.setstate(states[_PYTHON])
    of_torch.set_state(states[_TORCH])
    if of_numpy is not None and _NUMPY in states:
        name, keys, *rest = states[_NUMPY]
        keys = keys.numpy() if isinstance(keys, torch.Tensor) else keys
        of_numpy.set_state((name, keys, *rest))
