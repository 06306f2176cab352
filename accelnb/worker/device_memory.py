"""Which variables hold how much memory on a device."""

from __future__ import annotations

import collections
import itertools
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from IPython.core.interactiveshell import InteractiveShell
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from accelnb.devices.memory_size import in_words

_MOST_OBJECTS = 200_000  # that are looked at in all
_MOST_OF_A_NAME = 20_000
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
# What holds no tensors, or all of them.
_LEFT_OUT = (
    type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device,
    types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType,
    types.FrameType, types.TracebackType, types.CodeType, types.GeneratorType,
    InteractiveShell,
)  # fmt: skip
TENSORS = "tensors"  # what has no better name


@dataclass(frozen=True)
class Holder:
    """What one name holds on a device, without what a name before it holds already.

    Attributes
    ----------
    name : str
        Of the variable; ``x in f()`` for one of a function.
    kind : str
        What it is, such as ``Linear``.
    count : int
        How many tensors or arrays it holds.
    sizes : dict
        Bytes by what they are: ``parameters``, ``gradients``, ``buffers``, ``states`` or
        ``tensors``.
    """

    name: str
    kind: str
    count: int
    sizes: dict[str, int]

    @property
    def size(self) -> int:
        return sum(self.sizes.values())

    def __str__(self) -> str:
        if set(self.sizes) != {TENSORS}:
            parts = ", ".join(f"{part} {in_words(size)}" for part, size in self.sizes.items())
            return f"{self.name}: {parts}"
        several = "" if self.count == 1 else f" of {self.count:,} tensors"
        return f"{self.name}: {self.kind}{several} {in_words(self.size)}"


def holders(variables: Mapping[str, Any], device: torch.device) -> list[Holder]:
    """Return what each variable holds on a device, the largest first.

    What several names share counts once: for a model before an optimizer, for these before a
    container, an object or a tensor of its own. Closures, generators and what C++ code keeps
    are not searched. Nothing is kept alive.

    Examples
    --------
    >>> import torch
    >>> from accelnb.worker.device_memory import holders
    >>> cache = [torch.zeros(256, 1024) for _ in range(12)]
    >>> found = holders({"cache": cache, "first": cache[0]}, torch.device("cpu"))
    >>> [str(holder) for holder in found]
    ['cache: list of 12 tensors 12.00 MiB']
    """
    search = _Search(device)
    found = []
    for name, value in sorted(variables.items(), key=lambda item: _turn(item[1])):
        count, sizes = search.below(value)
        if sizes:
            found.append(Holder(name, _kind_of(value), count, sizes))
    return sorted(found, key=lambda holder: -holder.size)


def _turn(value: Any) -> int:
    """Return whose turn it is to count what several names share."""
    order = (nn.Module, torch.optim.Optimizer, (dict, list, tuple), object)
    if issubclass(type(value), torch.Tensor):
        return len(order)
    return next(turn for turn, of in enumerate(order) if issubclass(type(value), of))


def _kind_of(value: Any) -> str:
    return "tensor" if issubclass(type(value), torch.Tensor) else type(value).__name__


class _Search:
    """Finds tensors and arrays below variables; counts each piece of memory once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory: set[int] = set()  # addresses that were counted
        self._seen: set[int] = set()  # containers and objects, by id: the variables keep them alive
        self._left = _MOST_OBJECTS

    def below(self, value: Any) -> tuple[int, dict[str, int]]:
        """Return how many pieces of memory are below `value`, and their bytes by kind."""
        count, sizes = 0, collections.Counter[str]()
        to_do = [(value, TENSORS)]
        left = min(self._left, _MOST_OF_A_NAME)
        self._left -= left
        while to_do and left:
            left -= 1
            one, part = to_do.pop()
            try:
                if size := self._new_memory(one):
                    count += 1
                    sizes["parameters" if isinstance(one, nn.Parameter) else part] += size
                to_do += itertools.islice(self._new_parts(one, part), left)
            except Exception:  # whatever an object of the cell's does: it is left out
                continue
        self._left += left
        return count, dict(sizes)

    def _new_memory(self, one: Any) -> int:
        """Return the bytes that a tensor or array holds on the device and nobody before it."""
        numpy = sys.modules.get("numpy")
        if isinstance(one, torch.Tensor):
            if not self._is_there(one.device) or is_traceable_wrapper_subclass(one):
                return 0
            storage = one.untyped_storage()
            address, size = storage.data_ptr(), storage.nbytes()
        elif numpy and isinstance(one, numpy.ndarray) and self._device.type == "cpu":
            while isinstance(one.base, numpy.ndarray):
                one = one.base
            address, size = one.ctypes.data, one.nbytes
        else:
            return 0
        is_new = address not in self._memory
        self._memory.add(address)
        return size if is_new else 0

    def _is_there(self, device: torch.device) -> bool:
        of_any_number = self._device.index is None  # mps, which tensors call mps:0
        return device.type == self._device.type and (
            of_any_number or device.index == self._device.index
        )

    def _new_parts(self, one: Any, part: str) -> Iterator[tuple[Any, str]]:
        if isinstance(one, torch.Tensor):
            return _parts(one, part)  # a gradient may have come since
        if isinstance(one, _LEFT_OUT) or id(one) in self._seen:
            return iter(())
        self._seen.add(id(one))
        return _parts(one, part)


def _parts(one: Any, part: str) -> Iterator[tuple[Any, str]]:
    """Return what is directly in `one`, each with what to call its memory."""
    if isinstance(one, torch.Tensor):
        if is_traceable_wrapper_subclass(one):
            inner, _ = one.__tensor_flatten__()  # pyright: ignore
            yield from ((getattr(one, name), part) for name in inner)
        if one.is_leaf and one.grad is not None:
            yield one.grad, "gradients"
    elif isinstance(one, nn.Module):
        yield from ((value, "parameters") for value in one._parameters.values())
        yield from ((value, "buffers") for value in one._buffers.values())
        yield from ((value, part) for value in one._modules.values())
        own = one.__dict__.items()
        yield from ((value, part) for name, value in own if name not in _OF_EVERY_MODULE)
    elif isinstance(one, torch.optim.Optimizer):
        yield from ((value, part) for group in one.param_groups for value in group["params"])
        yield from ((value, "states") for value in one.state.values())
    elif isinstance(one, Mapping):
        yield from ((value, part) for value in one.values())
    elif isinstance(one, list | tuple | set | frozenset | collections.deque):
        yield from ((value, part) for value in one)
    else:
        yield from ((value, part) for value in getattr(one, "__dict__", {}).values())
