"""The main function of a script: the notebook's jobs in order, and what stands between them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from accelnb.export.analysis.call_kinds import computes, says_or_saves
from accelnb.export.analysis.known_names import SAY_NOTHING
from accelnb.export.cells.headings import Headings
from accelnb.export.cells.notebook_file import Cell
from accelnb.export.cells.statements import span_of
from accelnb.export.cells.syntax import dotted, last_part
from accelnb.export.script_text.placement import Places
from accelnb.export.script_text.source_text import call_of, indented
from accelnb.export.steps.program import Phase, Step
from accelnb.export.steps.selection import Selection
from accelnb.options.config import LaunchConfig, environment_of
from accelnb.options.environment import MESH

_CONDITIONS = {"once": "local_rank == 0"}
# Calls after which there may be no process group.
ENDS_GROUP = ("destroy_process_group(", "end_training(")
_JOIN_AGAIN = """\
if not dist.is_initialized():  # what ran above may have ended it
    join_process_group()"""


@dataclass(frozen=True)
class _Piece:
    text: str
    cell: Cell
    guard: str = ""
    gap: bool = False


class MainBody:
    """The lines of the main function that come from the notebook, and what they call for.

    Parameters
    ----------
    arguments
        The name under which the main function has the command line.

    Attributes
    ----------
    of_rank : set of str
        Names such as ``rank`` that its own lines read.
    gathers : bool
        Whether values of all ranks are gathered.
    joins_again : bool
        Whether the process group may have to be made several times.
    takes_turns : bool
        Whether the notebook itself computes for its jobs.
    takes_turns_twice : bool
        Whether it computes between jobs, so that random numbers interleave.
    """

    def __init__(
        self, selection: Selection, places: Places, headings: Headings, arguments: str
    ) -> None:
        self._selection = selection
        self._program = selection.program
        self._places = places
        self._headings = headings
        self._arguments = arguments
        self.lines: list[str] = []
        self.of_rank: set[str] = set()
        self.gathers = False
        self.joins_again = False
        turns = [step.position for step in places.main if self._is_notebooks_work(step)]
        first = min(step.position for step in self._program.steps if step.phase)
        self.takes_turns = bool(turns)
        self.takes_turns_twice = any(position > first for position in turns)
        self._prepare_jobs()
        self._write(list(self._pieces()))

    def _write(self, pieces: list[_Piece]) -> None:
        section, cell, guard = self._headings.title, None, ""
        for piece in pieces:
            own = self._headings.of(piece.cell)
            if piece.guard != guard:
                self._end_guard(guard)
            new_section = own not in (section, "")
            has_begun = self.lines and not self.lines[-1].startswith("work_as(")
            if has_begun and (new_section or piece.gap or piece.cell is not cell):
                self.lines.append("")
            if new_section:
                heading = f"# --- {own} ---"
                inside = piece.guard and piece.guard == guard
                self.lines.append(indented(heading) if inside else heading)
            if piece.guard != guard and piece.guard:
                self.lines.append(f"if {_CONDITIONS.get(piece.guard, piece.guard)}:")
            self.lines.append(indented(piece.text) if piece.guard else piece.text)
            section, cell, guard = own or section, piece.cell, piece.guard
            self.of_rank |= {"local_rank"} if guard == "once" else {"rank"} if guard else set()
        self._end_guard(guard)

    def _end_guard(self, guard: str) -> None:
        if guard == "once":
            self.lines.append("dist.barrier()  # the others wait for the files")

    def _pieces(self) -> Iterator[_Piece]:
        side, phase = "ranks", None
        config = self._program.phases[0].config
        ended = any(_ends_group(step) for step in self._places.definitions)
        for step in self._places.main:
            cell = step.statement.cell
            if side == "ranks" and self._is_notebooks_work(step):
                side = "notebook"
                yield _Piece('work_as("notebook")', cell)
            if step.phase and step.phase is not phase and not step.brought:
                if ended and phase is not None:
                    self.joins_again = True
                    yield _Piece(_JOIN_AGAIN, cell, gap=True)
                phase = step.phase
                if side == "notebook":
                    side = "ranks"
                    yield _Piece('work_as("ranks")', cell)
                if changes := _changed_settings(phase, config):
                    yield _Piece(changes, cell)
                config = phase.config
            ended |= _ends_group(step)
            if text := self._text_of(step):
                yield _Piece(text, cell, self._guard_of(step), step.statement.blank_before)

    def _is_notebooks_work(self, step: Step) -> bool:
        if step.phase or step.brought or step.position > self._program.last_phase:
            return False
        return computes(step.statement, self._program.imported)

    def _guard_of(self, step: Step) -> str:
        if step.phase:
            ranks = step.phase.options.ranks
            if ranks is None or step.brought:
                return ""
            return f"rank == {ranks[0]}" if len(ranks) == 1 else f"rank in {ranks}"
        if step.position > self._program.last_phase or step in self._selection.reports:
            return "rank == 0"
        effect = step.effect
        does_more = effect.is_setting or effect.surely - step.binds or self._selection.used[step]
        if step not in self._places.parameters and effect.writes and not does_more:
            return "once"
        return ""

    def _text_of(self, step: Step) -> str:
        if step.brought and step.phase:
            (name,) = step.binds
            if step.brought == "pull":
                self.gathers = True
                return self._gathered(name, f"{name}_of_ranks", step.phase.options.ranks)
            if step.phase.options.ranks is None:
                return ""  # the cell's last line binds it
            return self._gathered(name, name, step.phase.options.ranks)
        statement = step.statement
        if step in self._places.parameters:
            text = self._places.parameters[step].assignment(self._arguments)
        else:
            text = statement.text()
        return "\n".join([*statement.comments, text]) if text else ""

    def _gathered(self, value: str, name: str, ranks: tuple[int, ...] | None) -> str:
        if ranks is None:
            return call_of("from_all_ranks", value, f"{name} = ", indent=8)
        self.of_rank.add("rank")
        here = f"{value} if rank in {ranks} else None"
        chosen = ", ".join(f"{name}[{rank}]" for rank in ranks)
        return f"{name} = from_all_ranks({here})\n{name} = [{chosen}]"

    # ---- what a job's last line becomes, and calls that launch ----

    def _prepare_jobs(self) -> None:
        for step in self._places.main:
            if step.calls:
                self._replace_calls(step)
        for phase in self._program.phases:
            own = [s for s in self._places.main if s.phase is phase and s.on_ranks]
            out = [s for s in self._selection.kept if s.phase is phase and s.brought == "out"]
            if own and (own[-1].statement.is_last or out):
                self._write_last(own[-1], phase, bool(out))

    def _write_last(self, step: Step, phase: Phase, is_needed: bool) -> None:
        statement, node = step.statement, step.statement.node
        name = phase.options.out
        if not isinstance(node, ast.Expr):
            return
        value = statement.source_of(node.value)
        if isinstance(node.value, ast.Tuple) and not value.startswith("("):
            value = f"({value})"
        if name and is_needed:
            self.gathers = True
            new = f"{name} = {value}"
            if phase.options.ranks is None:
                new = call_of("from_all_ranks", value, f"{name} = ")
            statement.replace(node, new)
            return
        has_calls = any(isinstance(part, ast.Call) for part in ast.walk(node))
        if name or statement.is_silent:
            if not has_calls:
                statement.replace(node, "")
            return
        self._show(step, value, has_calls, min(phase.options.ranks or (0,)))

    def _show(self, step: Step, value: str, has_calls: bool, rank: int) -> None:
        """Print what the notebook shows as a cell's value, on one rank."""
        statement, node = step.statement, step.statement.node
        assert isinstance(node, ast.Expr)
        if isinstance(node.value, ast.Call) and last_part(node.value) in SAY_NOTHING:
            return
        self.of_rank.add("rank")
        if not has_calls:
            statement.replace(node, f"if rank == {rank}:\n    print({value})")
            return
        test = f"if rank == {rank} and shown is not None:\n    print(shown)"
        statement.replace(node, f"shown = {value}\n{test}")

    def _replace_calls(self, step: Step) -> None:
        statement, node = step.statement, step.statement.node
        for call in step.calls:
            plain = self._program.launches.plain(statement, call)
            whole = isinstance(node, ast.Expr | ast.Assign) and node.value is call
            if whole and not self._selection.used[step]:
                statement.replace(node, plain)
                shows = isinstance(node, ast.Expr) and statement.is_last and not statement.is_silent
                if shows and dotted(call.func):
                    statement.edits.clear()
                    self._show(step, plain, True, 0)
            else:
                self.gathers = True
                statement.replace(call, f"from_all_ranks({plain})")
        if not isinstance(node, ast.Expr | ast.Assign | ast.AugAssign | ast.AnnAssign):
            self._report_once(step)

    def _report_once(self, step: Step) -> None:
        """Have one rank print and save what a loop around launches did once, in the notebook."""
        statement = step.statement
        for node in ast.walk(statement.node):
            if not isinstance(node, ast.stmt) or not says_or_saves(node):
                continue
            start, end = span_of(statement.code, node)
            margin = statement.code[:start].rpartition("\n")[2]
            is_alone = not margin.strip() and not statement.code[end:].lstrip(" ").startswith(";")
            if any(part in step.calls for part in ast.walk(node)):
                continue
            self.of_rank.add("rank")
            source = statement.source_of(node)
            if is_alone:
                statement.replace(node, f"if rank == 0:\n{margin}{indented(source)}")
            else:
                statement.replace(node, f"{source} if rank == 0 else None")


def _ends_group(step: Step) -> bool:
    return not step.brought and any(call in step.statement.text() for call in ENDS_GROUP)


def _changed_settings(phase: Phase, before: LaunchConfig) -> str:
    usual, lines = environment_of(before), []
    for variable, value in environment_of(phase.config).items():
        if value == usual[variable]:
            continue
        if variable == MESH:  # one process has no place for it
            lines.append('if int(os.environ["WORLD_SIZE"]) > 1:')
        lines.append(f'{"    " * (variable == MESH)}os.environ["{variable}"] = "{value}"')
    return "\n".join(lines)
