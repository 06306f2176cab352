"""The ranks of a group as the notebook knows them."""

from __future__ import annotations

from dataclasses import dataclass, field

from accelnb.engine.failure import DIED, Failure, died
from accelnb.engine.wire.lifecycle import Exit

_LAST_OUTPUT = 4000


@dataclass
class Worker:
    """A rank as the notebook knows it; `incarnation` grows when it is replaced."""

    rank: int
    incarnation: int = 0
    pid: int | None = None
    formed: int = 0  # the generation of the process group it is in
    exit: Exit | None = None
    last_output: str = ""
    received: dict[str, int] = field(default_factory=dict)  # bytes of stdout and stderr

    @property
    def identity(self) -> bytes:
        return f"{self.rank}.{self.incarnation}".encode()

    def keep_output(self, text: str) -> None:
        """Remember the end of what it wrote, in case that were its last words."""
        self.last_output = (self.last_output + text)[-_LAST_OUTPUT:]


def failure_of(exit: Exit, last_output: str, secondary: bool = False) -> Failure:
    """Return the failure of a rank whose process has ended."""
    if exit.lost_with is not None:
        return Failure(exit.rank, DIED, f"was lost with {exit.lost_with}", secondary=secondary)
    return died(exit.rank, exit.code, last_output, secondary)
