"""Why torch's launcher starts the ranks again, said in one line where torch logs several."""

from __future__ import annotations

import logging
import sys
from typing import Any

from accelnb.engine.failure import died

# The loggers of torch (2.11 to 2.13), and how the messages begin that tell of a restart. With
# others nothing is said, and all else works.
_PROCESSES = "torch.distributed.elastic.multiprocessing.api"
_AGENT = "torch.distributed.elastic.agent.server.api"
_FAILED = "failed (exitcode: %s) local_rank: %s"
_WILL_RESTART = "[%s] Worker group %s."
_JOINED = "[%s] Detected %s new nodes"


def tell(most: int, who: str) -> None:
    """Say of each restart from now on what ended and which restart it is.

    Parameters
    ----------
    most
        How many restarts there may be.
    who
        What a process is called: ``rank``, or ``local rank`` where there are several machines.
    """
    if most < 1:
        return
    teller = _Teller(most, who)
    for name in (_PROCESSES, _AGENT):
        logger = logging.getLogger(name)
        if logger.level > logging.INFO:  # then torch's own lines are not asked for
            logger.propagate = False
            logger.setLevel(logging.INFO)
        logger.addHandler(teller)


class _Teller(logging.Handler):
    def __init__(self, most: int, who: str) -> None:
        super().__init__(logging.INFO)
        self._most = most
        self._who = who
        self._ended = ""

    def emit(self, record: logging.LogRecord) -> None:
        message, values = str(record.msg), record.args
        if not isinstance(values, tuple):
            return
        if message.startswith(_FAILED):
            self._ended = self._what_ended(*values[:2])
        elif message.startswith(_WILL_RESTART):
            left = values[2]
            assert isinstance(left, int)
            number = self._most - left + 1
            self._say(f"{self._ended}starting again, {number} of {self._most}")
        elif message.startswith(_JOINED):
            self._say("another machine has joined: starting again")

    def _what_ended(self, exit_code: Any, local_rank: Any) -> str:
        return f"{self._who} {local_rank} {died(local_rank, exit_code, '').evalue}; "

    def _say(self, text: str) -> None:
        print(f"accelnb: {text}", file=sys.stderr, flush=True)
