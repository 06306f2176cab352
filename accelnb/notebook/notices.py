"""What is said to the user beside a cell's own output, also of waits that take long."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager

from accelnb.options.config import LaunchConfig

_SILENT = 5.0  # s; most waits are over by then, also for the import of torch


def say(text: str) -> None:
    print(f"accelnb: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def saying_if_slow(what: str, after: float = _SILENT) -> Iterator[None]:
    """Say `what` goes on, once, if it is not over after some seconds.

    Examples
    --------
    >>> from accelnb.notebook.notices import saying_if_slow
    >>> with saying_if_slow("starting 2 ranks"):
    ...     pass  # says nothing: it is over at once
    """
    said = threading.Timer(after, say, [f"{what} ..."])
    said.daemon = True
    said.start()
    try:
        yield
    finally:
        said.cancel()


def saying_if_connecting(config: LaunchConfig) -> AbstractContextManager[None]:
    """Return a context for what may connect to a cluster first."""
    if config.cluster == "local":
        return contextlib.nullcontext()
    return saying_if_slow(f"connecting to the cluster {config.cluster}")


def ranks_of(config: LaunchConfig) -> str:
    """Return in words which ranks a resolved configuration starts.

    Examples
    --------
    >>> from accelnb.options.config import LaunchConfig
    >>> from accelnb.notebook.notices import ranks_of
    >>> ranks_of(LaunchConfig(procs=2, nodes=2, cluster="ray"))
    '4 ranks on 2 nodes of the cluster ray'
    """
    ranks = f"{config.world_size} rank{'s' * (config.world_size > 1)}"
    if config.cluster == "local":
        return ranks
    nodes = f"{config.nodes} node{'s' * (config.nodes > 1)}"
    return f"{ranks} on {nodes} of the cluster {config.cluster}"
