"""Loggers that know on which ranks to speak."""

from __future__ import annotations

import logging
import os
from collections.abc import MutableMapping
from typing import Any

import torch.distributed as dist

from accelnb.errors import AccelnbError
from accelnb.options import environment
from accelnb.training.state import PartialState


class MultiProcessAdapter(logging.LoggerAdapter):
    """A logger whose methods take two more arguments.

    Parameters of its methods
    -------------------------
    main_process_only : bool
        Log on rank 0 alone. True by default.
    in_order : bool
        Log on all ranks, one after the other. All ranks have to call it, as they wait.

    What several ranks may log begins with ``[RANK n]``.
    """

    def __init__(self, logger: logging.Logger, extra: Any = None) -> None:
        super().__init__(logger, extra)
        self._said: set[tuple[str, str]] = set()

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        """Log a message of the level, on the ranks that are to."""
        main_process_only = kwargs.pop("main_process_only", True)
        in_order = kwargs.pop("in_order", False)
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # the caller's line, not this one
        rank = _rank_so_far()
        if in_order:
            self._log_in_turn(rank, level, msg, args, kwargs)
        elif not main_process_only:
            self._log_here(level, f"[RANK {rank}] {msg}", args, kwargs)
        elif rank == 0:
            self._log_here(level, msg, args, kwargs)

    def warning_once(self, msg: object, *args: Any, **kwargs: Any) -> None:
        """Warn, unless this logger has given the same warning before."""
        said = (str(msg), repr(args))
        if said in self._said:
            return
        self._said.add(said)
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        self.warning(msg, *args, **kwargs)

    def process(
        self, msg: object, kwargs: MutableMapping[str, Any]
    ) -> tuple[object, MutableMapping[str, Any]]:
        if self.extra:
            kwargs["extra"] = {**self.extra, **(kwargs.get("extra") or {})}
        return msg, kwargs

    def _log_here(
        self, level: int, msg: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self.isEnabledFor(level):
            kwargs["stacklevel"] += 1
            msg, options = self.process(msg, kwargs)
            self.logger.log(level, msg, *args, **options)

    def _log_in_turn(
        self, rank: int, level: int, msg: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        # Ranks wait whatever their level is: it may differ among them.
        for turn in range(PartialState().num_processes if dist.is_initialized() else rank + 1):
            if turn == rank:
                kwargs["stacklevel"] += 1
                self._log_here(level, f"[RANK {rank}] {msg}", args, kwargs)
            if dist.is_initialized():
                PartialState().wait_for_everyone()


def get_logger(name: str, log_level: str | None = None) -> MultiProcessAdapter:
    """Return the logger of a name, for use on several ranks.

    It can be used before the Accelerator is made. Until there is a process group, `in_order`
    does not wait.

    Parameters
    ----------
    log_level
        By default what ``ACCELERATE_LOG_LEVEL`` says, else the logger's own.

    Raises
    ------
    AccelnbError
        The level is unknown.

    Examples
    --------
    >>> import logging, sys
    >>> from accelnb.training.logs import get_logger
    >>> logging.basicConfig(stream=sys.stdout, format="%(message)s", force=True)
    >>> logger = get_logger("training", log_level="INFO")
    >>> logger.info("once, on the main process")
    once, on the main process
    >>> logger.info("on every rank", main_process_only=False)
    [RANK 0] on every rank
    """
    logger = logging.getLogger(name)
    level = log_level or os.environ.get("ACCELERATE_LOG_LEVEL")
    if level:
        levels = logging.getLevelNamesMapping()
        if level.upper() not in levels:
            raise AccelnbError(f"log_level={level}: choose one of {', '.join(levels)}")
        logger.setLevel(level.upper())
    return MultiProcessAdapter(logger)


def _rank_so_far() -> int:
    # Making the state would choose the device, and perhaps make the process group: it is not for
    # a log message to do that.
    if PartialState._shared_state:
        return PartialState().process_index
    if dist.is_initialized():
        return dist.get_rank()
    return environment.number("RANK", default=0)
