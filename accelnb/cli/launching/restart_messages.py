"""Why torch's launcher starts the ranks again, said in one line where torch logs several."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

from accelnb.engine.failure import died

# The loggers of torch (2.11 to 2.13), and how the messages begin that tell of a restart. With
# others nothing is said, and all else works.
_PROCESSES = "torch.distributed.elastic.multiprocessing.api"
_AGENT = "torch.distributed.elastic.agent.server.api"
_FAILED = "failed (exitcode: %s) local_rank: %s"
_WILL_RESTART = "[%s] Worker group %s."
_JOINED = "[%s] Detected %s new nodes"


@contextlib.contextmanager
def told(most: int, who: str) -> Iterator[None]:
    """Say of each restart in this block what ended and which restart it is.

    Parameters
    ----------
    most
        How many restarts there may be.
    who
        What a process is called: ``rank``, or ``local rank`` where there are several machines.
    """
    teller = _Teller(most, who)
    with contextlib.ExitStack() as until_the_end:
        for name in (_PROCESSES, _AGENT) if most > 0 else ():
            until_the_end.enter_context(_heard(logging.getLogger(name), teller))
        yield


@contextlib.contextmanager
def _heard(logger: logging.Logger, teller: _Teller) -> Iterator[None]:
    """Have all messages told; torch's own log stays as it is."""
    level, shown = logger.level, logger.getEffectiveLevel()

    def hear(record: logging.LogRecord) -> bool:
        teller.hear(str(record.msg), record.args)
        return record.levelno >= shown

    logger.addFilter(hear)
    logger.setLevel(min(shown, logging.INFO))
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeFilter(hear)


class _Teller:
    def __init__(self, most: int, who: str) -> None:
        self._most = most
        self._who = who
        self._ended = ""

    def hear(self, message: str, values: Any) -> None:
        match values:
            case (int(exit_code), int(local_rank), *_) if message.startswith(_FAILED):
                self._ended = self._what_ended(exit_code, local_rank)
            case (_, _, int(left), *_) if message.startswith(_WILL_RESTART):
                number = self._most - left + 1
                self._say(f"{self._ended}starting again, {number} of {self._most}")
            case _ if message.startswith(_JOINED):
                self._say("another machine has joined: starting again")

    def _what_ended(self, exit_code: int, local_rank: int) -> str:
        return f"{self._who} {local_rank} {died(local_rank, exit_code, '').evalue}; "

    def _say(self, text: str) -> None:
        print(f"accelnb: {text}", file=sys.stderr, flush=True)
