"""Ranks that start in the background, before a cell asks for them."""

from __future__ import annotations

import threading

from accelnb.engine.group import WorkerGroup
from accelnb.errors import AccelnbError
from accelnb.options.config import SHAPE, LaunchConfig

_LONGEST = 150.0  # s; a start gives up itself before

_early: EarlyStart | None = None


class EarlyStart(threading.Thread):
    """A group of ranks on its way; ends when they are ready or have failed.

    Parameters
    ----------
    config
        A resolved configuration.
    """

    def __init__(self, config: LaunchConfig) -> None:
        super().__init__(name="accelnb-early-start", daemon=True)
        self.config = config
        self._group: WorkerGroup | None = None
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self._group = WorkerGroup(self.config)
        except Exception as error:  # told to the cell that needs the ranks
            self._error = error

    def group(self) -> WorkerGroup:
        """Wait for the ranks and return them.

        Raises
        ------
        AccelnbError
            They did not start; as `WorkerGroup` says it.
        """
        self.join(_LONGEST)
        if self._error is not None:
            raise self._error
        if self._group is None:
            raise AccelnbError(f"the ranks did not start within {_LONGEST:g} s")
        return self._group

    @property
    def succeeded(self) -> bool:
        """Whether the ranks are ready to be taken, without a wait."""
        return self._group is not None and not self.is_alive()


def start_early(config: LaunchConfig) -> None:
    """Start ranks in the background, for the first cell that asks for such ranks."""
    global _early
    _early = EarlyStart(config)
    _early.start()


def under_way() -> bool:
    """Return whether ranks are being started that no cell has taken yet."""
    return _early is not None and _early.is_alive()


def ready() -> WorkerGroup | None:
    """Return the ranks that were started early, if they are ready; only once."""
    global _early
    if _early is None or not _early.succeeded:
        return None
    early, _early = _early, None
    return early.group()


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
    if _shape(_early.config) == _shape(config):
        early = _early
        early.join(_LONGEST)  # may be interrupted: the ranks are then still there to be taken
        _early = None
        return early.group()
    discard_early()
    return WorkerGroup(config)


def discard_early() -> None:
    """End ranks that were started early and that no cell has taken."""
    global _early
    if _early is None:
        return
    _early.join(_LONGEST)
    early, _early = _early, None
    if early.succeeded:
        early.group().shutdown()


def _shape(config: LaunchConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in SHAPE}
