"""Ranks that start in the background, before a cell asks for them."""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait

from accelnb.engine.group import WorkerGroup, same_shape
from accelnb.errors import AccelnbError
from accelnb.options.config import LaunchConfig

_LONGEST = 150.0  # s; a start gives up itself before

_early: tuple[LaunchConfig, Future[WorkerGroup]] | None = None  # until a cell takes them


def start_early(config: LaunchConfig) -> None:
    """Start ranks in the background, for the first cell that asks for such ranks.

    Parameters
    ----------
    config
        A resolved configuration.
    """
    global _early
    group: Future[WorkerGroup] = Future()

    def start() -> None:
        try:
            group.set_result(WorkerGroup(config))
        except BaseException as error:  # told to the cell that needs the ranks
            group.set_exception(error)

    _early = config, group
    threading.Thread(target=start, name="accelnb-early-start", daemon=True).start()


def under_way() -> bool:
    """Return whether ranks are being started that no cell has taken yet."""
    return _early is not None and not _early[1].done()


def ready() -> WorkerGroup | None:
    """Return the ranks that were started early, if they are ready; only once."""
    global _early
    if _early is None or under_way() or _early[1].exception() is not None:
        return None
    (_, group), _early = _early, None
    return group.result()


def start_group(config: LaunchConfig) -> WorkerGroup:
    """Return new ranks: those that were started early, if they are as `config` wants them.

    Raises
    ------
    AccelnbError
        They did not start.
    """
    global _early
    if _early is None:
        return WorkerGroup(config)
    early_config, group = _early
    if not same_shape(early_config, config):
        discard_early()
        return WorkerGroup(config)
    wait([group], _LONGEST)  # may be interrupted: the ranks are then still there to be taken
    _early = None
    if not group.done():
        raise AccelnbError(f"the ranks did not start within {_LONGEST:g} s")
    return group.result()


def discard_early() -> None:
    """End ranks that were started early and that no cell has taken."""
    global _early
    if _early is None:
        return
    wait([_early[1]], _LONGEST)
    (_, group), _early = _early, None
    if group.done() and group.exception() is None:
        group.result().shutdown()
