"""One outcome on all ranks: what fails on one fails on every rank, and none waits for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from accelnb.errors import AccelnbError
from accelnb.training.communication import all_gather_objects
from accelnb.training.state import PartialState

T = TypeVar("T")

_alone: ContextVar[bool] = ContextVar("_alone", default=False)


def together(action: Callable[[], T]) -> T:
    """Run an action on every rank; return this rank's result once all have succeeded.

    Raises
    ------
    AccelnbError
        It failed on another rank. What failed on this one is raised as it is.
    """
    result, failure = attempt(action)
    for rank, said in enumerate(of_every_rank(failure and _text(failure))):
        if said and failure is None:
            raise AccelnbError(f"rank {rank}: {said}")
    if failure is not None:
        raise failure
    return result  # pyright: ignore[reportReturnType]


def attempt(action: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """Return an action's result and None, or None and its exception."""
    try:
        return action(), None
    except Exception as error:
        return None, error


def of_every_rank(value: Any) -> list[Any]:
    """Return every rank's value. They are small: they are pickled."""
    several = PartialState().use_distributed and not _alone.get()
    return all_gather_objects(value) if several else [value]


@contextmanager
def on_this_rank_alone() -> Iterator[None]:
    """Within the block other ranks are not asked: they do something else."""
    before = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(before)


def _text(failure: Exception) -> str:
    kind = "" if isinstance(failure, AccelnbError) else f"{type(failure).__name__}: "
    return f"{kind}{failure}"
