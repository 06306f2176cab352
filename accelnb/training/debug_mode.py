"""The debug mode of collectives: what ranks give is compared before anything can hang.

``ACCELERATE_DEBUG_MODE=1`` turns it on. Each collective then costs a second, small one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from accelnb.errors import AccelnbError
from accelnb.training import communication
from accelnb.training.state import PartialState


class DistributedOperationException(AccelnbError):
    """Ranks gave a collective what does not fit together. Every rank raises it.

    Examples
    --------
    >>> from accelnb.utils import DistributedOperationException
    >>> raise DistributedOperationException("gather: rank 0 has float32[2]; rank 1 has float32[3]")
    Traceback (most recent call last):
    ...
    accelnb.training.debug_mode.DistributedOperationException: gather: rank 0 has float32[2]; \
rank 1 has float32[3]
    """


def shape(tensor: torch.Tensor) -> str:
    """What must agree for most collectives, and what is shown of a tensor."""
    return f"{_kind(tensor)}{list(tensor.shape)}{_place(tensor)}"


def dimensions(tensor: torch.Tensor) -> str:
    """What must agree where sizes may differ."""
    return f"{_kind(tensor)} {tensor.ndim}d{_place(tensor)}"


def rows(tensor: torch.Tensor) -> str:
    """What must agree where first dimensions may differ; a scalar is a row."""
    return f"{_kind(tensor)}{list(tensor.shape[1:])}{_place(tensor)}"


def check(operation: str, data: Any = None, alike: Callable[[torch.Tensor], str] = shape) -> None:
    """In the debug mode, make sure that all ranks make this call with what fits together.

    Parameters
    ----------
    operation
        The collective with the arguments that must be equal on all ranks.
    data
        The structure given to it.
    alike
        Says what of each tensor must agree.

    Raises
    ------
    DistributedOperationException
        They do not.
    """
    state = PartialState()
    if state.debug and state.use_distributed:
        compare(operation, data, alike)


def compare(operation: str, data: Any, alike: Callable[[torch.Tensor], str]) -> None:
    """Do what `check` does, in any mode."""
    mine = operation, described(data, alike), described(data, shape)
    everyone = communication.all_gather_objects(mine)
    operations, compared, shown = zip(*everyone, strict=True)
    if len(set(operations)) > 1:
        raise DistributedOperationException(
            f"ranks make different calls at one time: {_by_rank(operations)}"
        )
    if len(set(compared)) > 1:
        raise DistributedOperationException(
            f"{operation}: ranks give it what does not fit together: {_by_rank(shown)}"
        )


def described(data: Any, leaf: Callable[[torch.Tensor], str]) -> str:
    """Return a structure as text, with what `leaf` returns in the place of tensors."""
    if isinstance(data, torch.Tensor):
        return leaf(data)
    if isinstance(data, Mapping):
        return f"{{{', '.join(f'{k!r}: {described(v, leaf)}' for k, v in data.items())}}}"
    if isinstance(data, list | tuple):
        return f"[{', '.join(described(part, leaf) for part in data)}]"
    return type(data).__name__


def _by_rank(texts: tuple[str, ...]) -> str:
    return "; ".join(f"rank {rank}: {text}" for rank, text in enumerate(texts))


def _kind(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _place(tensor: torch.Tensor) -> str:
    return f" on {tensor.device.type}"
