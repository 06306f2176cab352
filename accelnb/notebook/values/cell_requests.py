"""What each rank is sent with a cell, and what the ranks know of the notebook after it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from IPython.core.interactiveshell import ExecutionResult, InteractiveShell

from accelnb.engine.failure import Failure
from accelnb.engine.group import WorkerGroup
from accelnb.engine.launchers.choice import finish_for
from accelnb.engine.run import Run
from accelnb.jupyter.cell_names import CellNames
from accelnb.notebook.cell import Cell
from accelnb.notebook.cell_history import Sources, names_in, texts_so_far
from accelnb.notebook.notices import say
from accelnb.notebook.values.capture import Capture
from accelnb.notebook.values.module_objects import Imports
from accelnb.options.config import CellOptions, LaunchConfig, settings_for_ranks

# Python's own words for it, and pandas's.
_NOT_DEFINED = re.compile(r"^(?:name|local variable) '(\w+)' is not defined")


class CellRequests:
    """Follows what the notebook binds and what its ranks have of that.

    Attributes
    ----------
    capture : Capture
        What each rank has.
    imports : Imports
        What the notebook has of modules.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self.imports = Imports(shell.user_ns)
        # What the notebook ran before it loaded the extension, and the cell that does so.
        self._cells_before = texts_so_far(shell)
        self._runs_own_code = True
        self.forget_all()

    def callbacks(self) -> dict[str, Callable[..., None]]:
        """Return what IPython is to call, by the names of its events."""
        return {
            "pre_execute": self._before_code,
            "pre_run_cell": self._before_cell,
            "post_run_cell": self._after_cell,
        }

    def forget(self, ranks: Iterable[int]) -> None:
        """Take note that these ranks are new and know nothing."""
        self.capture.forget(ranks)
        self._sources.forget(ranks)

    def forget_all(self) -> None:
        """Take note that all ranks are new."""
        self.capture = Capture(self._shell.user_ns, self._shell.user_ns_hidden, self.imports)
        self._sources = Sources()
        self._unread: tuple[Run, CellNames] | None = None  # what it left is not noted yet

    def run(
        self,
        group: WorkerGroup,
        cell: Cell,
        ranks: Sequence[int],
        config: LaunchConfig,
        options: CellOptions,
    ) -> Run:
        """Begin to run `cell` on some ranks of a group.

        Raises
        ------
        CannotSend
            A value cannot be serialized. Nothing was sent.
        """
        self.note_what_was_left()
        if self._runs_own_code:  # as before %distributed in a loop
            self.imports.moment += 1
        names = _without_mesh(cell.names) if config.mesh else cell.names
        packs = self.capture.pack(names, ranks, finish_for(group.config))
        for note in self.capture.take_notes():
            say(note)
        content = {
            "cell": {
                "code": cell.code,
                "source": cell.source,
                "name": cell.name,
                "number": cell.number,
                "future": cell.future,
            },
            "result": options.out is not None or options.detach,
            "pull": options.pull,
            "settings": settings_for_ranks(config, len(packs) == len(group.ranks)),
        }
        requests = {}
        for rank, pack in packs.items():
            own = content | {"sources": self._sources.for_rank(rank, self._shell)}
            requests[rank] = (own | pack.content, pack.buffers) if pack else (own, [])
        run = group.run(
            "execute_request",
            requests,
            timeout=config.timeout,
            stall=config.stall,
            lent=packs.values(),
            advice=self._advice,
        )
        self._unread = (run, cell.names)
        return run

    def note_what_was_left(self) -> None:
        """Take note of which values the newest run's ranks have now."""
        if self._unread is None:
            return
        run, names = self._unread
        # Ranks are free a moment before a run of theirs is over.
        if run.pending or not run.wait(1):
            return
        self._unread = None
        self.capture.not_received(run.without_values)
        failed = {failure.rank for failure in run.failures}
        self.capture.assigned(
            {
                rank: own if rank in failed else {*own, *names.surely}
                for rank, own in run.assigned.items()
            }
        )

    def _advice(self, failure: Failure) -> str | None:
        """Say how to send a name that a rank lacks, for nothing in the cell showed it."""
        lacking = _NOT_DEFINED.search(failure.evalue)
        if lacking is None or not self.capture.is_users(lacking[1]):
            return None
        return f"the notebook has it: `%accelnb push {lacking[1]}` sends it"

    def _before_code(self) -> None:
        """Take note that code runs which may change what the notebook has, as a widget's does."""
        self.imports.moment += 1
        self._runs_own_code = True

    def _before_cell(self, info: Any) -> None:
        """Take note of a cell that is only for ranks: the notebook changes nothing."""
        if _is_for_ranks(info.raw_cell):
            self.imports.moment -= 1
            self._runs_own_code = False

    def _after_cell(self, result: ExecutionResult) -> None:
        """Take note of what a cell of the notebook bound, also to the value that it had."""
        self.capture.let_go_of_deleted()
        if result.info is None or _is_for_ranks(result.info.raw_cell):
            return
        text = result.info.raw_cell or ""
        names = names_in(text, self._shell)
        before = [(cell, names_in(cell, self._shell)) for cell in self._cells_before[:-1]]
        self._cells_before = []
        try:
            self.imports.read([*before, (text, names)])
        except Exception as error:  # of code in somebody's module, which is no fault of the cell
            say(f"what this cell did to modules cannot be read ({type(error).__name__}: {error})")
        if result.success:
            self.capture.send_again(names.surely)


def _without_mesh(names: CellNames) -> CellNames:
    """Leave out the notebook's own `mesh`: the cell has the one that --mesh asked for."""
    mesh = {"mesh"}
    return dataclasses.replace(names, needed=names.needed - mesh, perhaps=names.perhaps - mesh)


def _is_for_ranks(cell: str | None) -> bool:
    return (cell or "").startswith("%%distributed")
